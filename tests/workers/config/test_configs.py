"""Settings: all that is offered composes, and what cannot be run is refused in one line before anything starts."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import workers.conf

import dni.data
import dni.experimental
import dni.loss_function
import dni.lr_schedule
import dni.methods.base
import dni.models
import dni.optimizers
import dni.predictors.base
import workers.comm.transports.base
import workers.config.validation.check
from dni.errors import ConfigError
from tests.support.commands import LOCAL, SMALL, run, settings
from tests.support.options import from_words
from tests.support.refusals import refusal_of
from workers.cli.train import exit_codes
from workers.config.convert import from_any, to_plain
from workers.config.validation.check import check
from workers.launch.launcher import launch

CONF = Path(workers.conf.__path__[0])
RULES = Path(workers.config.validation.check.__file__).parent
PARTS_OF_DNI = [Path(part.__path__[0]) for part in (dni.data, dni.experimental, dni.models)]
TRANSPORTS = Path(workers.comm.transports.base.__file__).parent
METHODS_OF_DNI, PREDICTORS = Path(dni.methods.base.__file__).parent, Path(dni.predictors.base.__file__).parent
FILES = sorted((path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.glob("*/**/*.yaml"))
OPTIONS = {group: [name for _, name in files] for group, files in itertools.groupby(FILES, lambda file: file[0])}
ALONE = [f"{group}={name}" for group, names in sorted(OPTIONS.items()) for name in names]

#: Options that do not go with the defaults, and what they need.
NEEDS = {
    "data=tokens": ["data.path=folder"],
    "data=series": ["data.path=file.csv", "loss=squared_error"],
    "loss=squared_error": ["data.path=file.csv", "data=series"],
    "data=mnist": ["model=mlp_bn"],
    "data=cifar10": ["model=cnn"],
    "model=mlp_bn": ["data=mnist"],
    "model=cnn": ["data=cifar10"],
    "model=resnet": ["data=cifar10"],
    "predictor=conv": ["data=cifar10", "model=cnn"],
    "predictor/depth=conv": ["data=cifar10", "model=cnn"],
    "data=two_clocks": ["model=two_clocks", "stages=2"],
    "model=two_clocks": ["data=two_clocks", "stages=2"],
    "time=oracle": ["data=copy", "stages=1"],
    "optimizer/schedule=step": ["optimizer.schedule.decay_steps=100", "optimizer.schedule.final=0.1"],
}


def test_the_groups_are_those_of_the_documentation() -> None:
    assert OPTIONS.keys() == {
        "data", "depth", "experiment", "launch", "loss", "model", "optimizer", "optimizer/schedule", "predictor",
        "predictor/depth", "predictor/time", "time", "transport",
    }  # fmt: skip


@pytest.mark.parametrize("option", ["seed=0", *ALONE])
def test_every_option_composes_and_can_be_run(option: str) -> None:
    config = settings(option, *NEEDS.get(option, []))
    check(config)
    assert from_any(to_plain(config)) == config


@pytest.mark.parametrize("depth", OPTIONS["depth"])
def test_every_pair_of_a_method_in_depth_and_others_composes_and_can_be_run(depth: str) -> None:
    """All pairs of methods in depth and in time, and beside them every transport and every predictor in turn."""
    predictors = [name for name in OPTIONS["predictor"] if name != "conv"]  # of images, which have no cut in time
    pairs = itertools.product(OPTIONS["time"], OPTIONS["transport"])
    for (time, transport), predictor in zip(pairs, itertools.cycle(predictors), strict=False):
        config = settings(f"depth={depth}", f"time={time}", f"transport={transport}", f"predictor={predictor}")
        if time == "oracle" or (depth == "delayed" and config.time.answers):
            continue  # refused, see below
        if time in ("auxiliary", "lambda_return") and predictor == "soft_label_critic":
            continue  # refused, see below
        if config.pipelined and (time not in ("truncated", "full") or transport == "local"):
            continue  # refused: test_pipeline_rules
        check(config)
        assert (config.depth.name, config.time.name, config.transport.name) == (depth, time, transport)


TWO = "data.kind=two_clocks model.kind=two_clocks"
SERIES = "data.kind=series data.path=f.csv loss._target_=dni.loss_function.SquaredError"
CUT = f"{TWO} stages=2 model.split_points=[lstm_b]"

EXTERNAL = "launch.mode=external stages=2"
ALLOW = "set transport.tls, or transport.insecure=true if everyone on that network may read and change this run"

#: For every rule: settings that break it, and the whole of its message, which names what to type.
REFUSED = {
    "depth.lag=4": "depth.lag=4 does not fit depth.max_in_flight=4: the target of step t - lag must still be in "
    "flight; "
    "set depth.max_in_flight=5 or more (or depth.lag=null)",
    "depth.method=delayed stages=4 depth.max_in_flight=2": "depth=delayed shares depth.max_in_flight=2 among 3 edges, "
    "on each of "
    "which a step may be 1 late: set depth.max_in_flight=3 or more",
    "depth.method=delayed stages=3 depth.lag=3": "depth=delayed shares depth.max_in_flight=4 among 2 edges, on each "
    "of which "
    "a step may be 3 late: set depth.max_in_flight=6 or more",
    "depth.method=delayed time.method=synthetic": "depth=delayed goes back too late for "
    "time=synthetic: use time=truncated (or depth=synthetic)",
    **{
        f"depth.method=lambda_return depth.lambda_depth={share}": f"depth.lambda_depth={share} must be above 0 and at "
        "most 1, where every target starts from the loss (or use depth=synthetic, where each starts from the next "
        "prediction)"
        for share in (0.0, 1.5)
    },
    "depth.method=lambda_return depth.lag=1": "depth=lambda_return shares depth.max_in_flight=4 among 3 edges, on "
    "each of "
    "which a target may be 1 late: set depth.max_in_flight=6 or more (or use depth=synthetic)",
    "depth.method=lambda_return depth.inputs=synthetic": "depth=lambda_return makes targets from every window that "
    "came, and depth.inputs=synthetic goes ahead of them: set depth.inputs=received (or use depth=synthetic)",
    "optimizer.staleness=0.5 depth.method=local": "optimizer.staleness=0.5 shortens the steps of late gradients, and "
    "with depth=local none is late: set optimizer.staleness=0 (or depth=synthetic)",
    "evaluate.probe=9 time.method=full depth.method=delayed": "evaluate.probe=9 has nothing to measure, for no "
    "gradient is cut in time or predicted in depth: set evaluate.probe=null",
    "time.method=full data.sequence=null": "time=full backpropagates through whole sequences: set data.sequence to "
    "their length, data.sequence=256 say (or time=truncated)",
    "time.method=checkpointed data.sequence=null": "time=checkpointed backpropagates through whole sequences: set "
    "data.sequence to their length, data.sequence=256 say (or time=truncated)",
    "data.sequence=40": "data.sequence=40 is not a multiple of data.window=32: set data.sequence=32, say "
    "(or data.sequence=null)",
    "data.sequence=8": "data.sequence=8 is not a multiple of data.window=32: set data.sequence=32, say "
    "(or data.sequence=null)",
    "time.method=synthetic model.kind=mlp": "time=synthetic needs a recurrent model: model=mlp carries no state; "
    "use model=lstm, say",
    "model.kind=transformer model.units=10 model.heads=4": "model.heads=4 does not divide model.units=10: set "
    "model.units=12, say",
    "transport.kind=local launch.mode=processes": "transport=local joins threads of one process: use launch=threads, "
    "or transport=grpc",
    "devices=[cpu,cpu]": "devices names 2 devices for 4 stages: name one, or one each",
    "devices=[]": "devices names 0 devices for 4 stages: name one, or one each",
    "model.split_points=[lstm2,softmax]": "model.split_points names 2 cuts, which makes 3 stages, but stages=4: "
    "change one, or set "
    "model.split_points=[] to cut by balance",
    "time.method=lambda_return time.lambda_=1.5": "time.lambda_=1.5 must be at most 1: from 0, where every target "
    "starts from the next prediction, to 1, where it starts from the last one of a horizon",
    "time.method=lambda_return time.horizon=1": "time.horizon=1 leaves time=lambda_return nothing to mix: use "
    "time=synthetic",
    "time.method=lambda_return predictor.time.kind=soft_label_critic": "time=lambda_return makes the targets of "
    "several windows together, and predictor=soft_label_critic waits for labels: use predictor=critic or predictor=mlp "
    "(or time=synthetic)",
    "time.method=auxiliary predictor.time.kind=soft_label_critic": "time=auxiliary needs the target of every window at "
    "once, and predictor=soft_label_critic waits for labels: use predictor=critic or predictor=mlp (or time=synthetic)",
    "start_step=3": "start_step=3 needs the folder of a run: add start_from=FOLDER",
    "resume_step=3": "resume_step=3 needs the folder of the run to go on from: add resume=FOLDER",
    "evaluate.patience=3 evaluate.every=null": "evaluate.patience=3 counts validation passes, and with "
    "evaluate.every=null there is one, at the end: set evaluate.every=250, say (or evaluate.patience=null)",
    "evaluate.patience=3 data.kind=repeat_copy data.sequence=null": "evaluate.patience=3 needs validation, and the "
    "curriculum of data=repeat_copy has none: set data.length (or evaluate.patience=null)",
    **{
        f"transport.bind={bind}": f"transport.bind={bind} is not a loopback address with a port, and links are neither "
        f"encrypted nor authenticated: use transport.bind=auto, or 127.0.0.1:0; elsewhere {ALLOW}"
        for bind in ("0.0.0.0:0", "localhost")
    },
    "transport.kind=local launch.mode=external": "transport=local joins threads of one process: use launch=threads, "
    "or transport=grpc",
    "run_id=x": "run_id=x names the folder of stages that an engine has started: use launch=external, or "
    "hydra.run.dir=outputs/x instead",
    "transport.peers=[a:1]": "transport.peers is for stages that an engine has started: use launch=external (or "
    "transport.peers=[])",
    f"{EXTERNAL} transport.peers=[localhost:1]": "transport.peers names 1 addresses for 2 stages: name HOST:PORT of "
    "each",
    **{
        f"{EXTERNAL} transport.peers=[localhost:1,{peer}]": f"transport.peers: {peer} is not HOST:PORT with a port "
        "above 0"
        for peer in ("localhost", "localhost:0", "localhost:http")
    },
    f"{EXTERNAL} transport.peers=[localhost:1,dni-1.dni:7000]": "transport.peers: dni-1.dni:7000 is not a loopback "
    f"address, and links are neither encrypted nor authenticated: {ALLOW}",
    "transport.tls.cert=c.pem transport.tls.ca=ca.pem": "transport.tls needs cert, key and ca: set transport.tls.key, "
    "or none of them",
    "transport.backend=nccl transport.kind=torch_distributed transport.checksum=true": "transport.checksum=true covers "
    "what passes through the CPU, and with transport.backend=nccl activations do not: set transport.checksum=false, or "
    "transport.backend=gloo",
    "transport.kind=torch_distributed transport.bind=0.0.0.0:0": "transport.bind=0.0.0.0:0 is not a loopback address "
    "with a port, and links are neither encrypted nor authenticated: use transport.bind=auto, or 127.0.0.1:0; "
    f"elsewhere {ALLOW.replace('transport.tls, or ', '')}",
    "transport.bind=127.0.0.1:5000": "transport.bind=127.0.0.1:5000: 3 of the 4 stages listen and cannot share a port: "
    "use transport.bind=127.0.0.1:0",
    "data.streaming=true time.method=synthetic": "data.streaming=true: the labels after a window are not known yet: "
    "use predictor=soft_label_critic (or predictor=mlp predictor.time.context=window)",
    "predictor.depth.staleness_decay=1": "predictor.depth.staleness_decay=1.0 makes late targets count for less "
    "beside a loss that is "
    "learned at once: set predictor.depth.eager_loss=true (or predictor.depth.staleness_decay=0)",
    "time.method=oracle": "time=oracle runs the rest of a sequence through the whole model: it needs stages=1 and "
    "sequences that are known ahead (data=copy or repeat_copy, data.streaming=false), not stages=4 data=text",
    "time.method=oracle stages=1 data.kind=copy data.sequence=null evaluate.probe=5": "evaluate.probe=5 would compare "
    "an oracle with itself: set evaluate.probe=null",
    "transport.delay_ms=15000": "transport.timeout_s=60 is too short for the round trip that transport.delay_ms=15000 "
    "makes: set transport.timeout_s=150 or more",
    "evaluate.probe=9 time.method=checkpointed": "evaluate.probe=9 keeps all activations of a sequence, which "
    "time=checkpointed is there to avoid: set evaluate.probe=null (or time=full)",
    "evaluate.probe=9 time.method=full stages=1": "evaluate.probe=9 has nothing to measure, for no gradient is cut in "
    "time or predicted in depth: set evaluate.probe=null",
    "evaluate.probe=9 model.kind=mlp depth.method=backprop": "evaluate.probe=9 has nothing to measure, for no gradient "
    "is cut in time or predicted in depth: set evaluate.probe=null",
    "evaluate.probe=9 data.kind=seqmnist": "evaluate.probe_windows=8 is less than a sequence, whose labels come last: "
    "set evaluate.probe_windows=25",
    "evaluate.probe=9 data.kind=copy data.length=35 data.window=4": "evaluate.probe_windows=8 is less than a sequence, "
    "whose labels come last: set evaluate.probe_windows=9",
    "model.kind=cnn": "model=cnn reads images, and data=text gives symbols: use data=mnist or model=lstm, say",
    "data.kind=mnist": "model=lstm reads symbols, and data=mnist gives images: use data=text or model=cnn, say",
    "data.kind=cifar10 model.kind=cnn time.method=full": "time=full has nothing to cut, for data=cifar10 has no time: "
    "use time=truncated",
    "data.kind=mnist model.kind=mlp_bn data.window=2": "data=mnist has no sequences: set data.window=1 and "
    "data.sequence=null",
    "data.kind=mnist model.kind=resnet evaluate.probe=9": "evaluate.probe=9 goes "
    "through a sequence, and data=mnist has none: set evaluate.probe=null",
    "data.kind=mnist model.kind=mlp_bn data.batch=1": "data.batch=1: model=mlp_bn has "
    "batch norm, which needs a batch: set data.batch=64, say",
    "predictor.depth.kind=conv": "predictor=conv needs feature maps, and between the layers of model=lstm there are "
    "none: use predictor=critic, say (or model=cnn or model=resnet)",
    "model.dropout=0.2 model.layers=1": "model.dropout=0.2 is between the layers of model=lstm, and there is one: set "
    "model.layers=2 or more (or model.dropout=0)",
    "optimizer.nesterov=true optimizer.kind=sgd": "optimizer.nesterov=true needs momentum: set optimizer.momentum=0.9, "
    "say",
    "optimizer.schedule.kind=step optimizer.schedule.final=0.1": "optimizer/schedule=step needs to know when: set "
    "optimizer.schedule.decay_steps=333, say",
    "optimizer.schedule.kind=step optimizer.schedule.decay_steps=9": "optimizer/schedule=step with "
    "optimizer.schedule.final=0 stops at the first fall: set optimizer.schedule.final=0.1, say",
    "optimizer.schedule.kind=linear data.kind=copy time.method=full max_timesteps=900": "optimizer/schedule=linear "
    "does not know how many steps max_timesteps=900 will be, for the sequences grow: set "
    "optimizer.schedule.decay_steps",
    "optimizer.schedule.kind=cosine optimizer.schedule.warmup_steps=50 steps=50": "optimizer.schedule.warmup_steps=50 "
    "leaves none of the 50 steps of optimizer/schedule=cosine: set optimizer.schedule.warmup_steps=5, say",
    "optimizer.kind=torch optimizer.name=torch.optim.RMSprob": "optimizer.name=torch.optim.RMSprob cannot be imported "
    "(module 'torch.optim' has no attribute 'RMSprob'): write its MODULE.CLASS",
    "optimizer.kind=torch optimizer.name=torch.optim": "optimizer.name=torch.optim is no optimizer of torch: name a "
    "subclass of torch.optim.Optimizer",
    "optimizer.kind=torch optimizer.arguments.alpa=0.9": "optimizer.name=torch.optim.RMSprop takes no step with "
    "optimizer.arguments={'alpa': 0.9}: RMSprop.__init__() got an unexpected keyword argument 'alpa'; change them",
    "depth.update_probability=0.5 depth.method=lambda_return": "depth.update_probability=0.5 leaves steps without a "
    "gradient, and depth=lambda_return would wait for it: use depth=synthetic or depth=local (or "
    "depth.update_probability=1)",
    "depth.update_probability=1.5": "depth.update_probability=1.5 must be at most 1, with which every stage updates at "
    "every step",
    "depth.update_probability=0.5 depth.method=backprop": "depth.update_probability=0.5 leaves steps without a "
    "gradient, and depth=backprop would wait for it: use depth=synthetic or depth=local (or "
    "depth.update_probability=1)",
    **{
        f"depth.update_probability=0.5 {several}": "depth.update_probability=0.5 leaves windows out, and targets in "
        "time that are made from several would miss them: use time=synthetic, and predictor=critic or predictor=mlp"
        for several in (
            "time.method=lambda_return", "time.method=auxiliary",
            "time.method=synthetic predictor.time.kind=soft_label_critic",
        )
    },
    "depth.inputs=synthetic depth.method=local": "depth.inputs=synthetic is for stages that do not wait for gradients "
    "either, and answers with synthetic ones: use depth=synthetic, not depth=local (or depth.inputs=received)",
    "depth.inputs=synthetic data.kind=copy data.sequence=null": "depth.inputs=synthetic makes every stage read the "
    "data for itself, and the curriculum of data=copy depends on losses that only the first one hears of: set "
    "data.length (or depth.inputs=received)",
    "depth.inputs=synthetic predictor.inputs.hidden=0": "predictor.inputs.hidden=0: a GRU predicts what stages with "
    "state send: set 128, say",
    "depth.clocks=[1,2]": "depth.clocks=[1,2] names 2 clocks for 4 stages: name one each, or set depth.clocks=[]",
    **{
        f"depth.clocks=[{clocks}]": f"depth.clocks=[{clocks}] must begin with 1 and go on in multiples, each of the "
        "one before: depth.clocks=[1,2,4,8], say"
        for clocks in ("2,2,2,2", "1,2,3,6", "1,4,2,2", "1,0,0,0", "1,-1,1,1")
    },
    **{
        f"depth.clocks=[1,1,2,2] depth.method={method}": "depth.clocks=[1,1,2,2] tells when a gradient is asked for, "
        f"and depth={method} asks for none then: use depth=synthetic or depth=backprop (or depth.clocks=[])"
        for method in ("local", "delayed", "lambda_return")
    },
    "depth.clocks=[1,1,1,2] time.method=synthetic": "depth.clocks=[1,1,1,2]: what lies beside a window is not what a "
    "slower stage reads next: set predictor=mlp predictor.time.context=none (or time=truncated)",
    "depth.clocks=[1,1,1,2] evaluate.probe=9": "evaluate.probe=9 takes a whole sequence through all stages at one "
    "rate: set evaluate.probe=null",
    **{
        f"depth.clocks=[1,1,1,2] {key}={asked}": f"{key}={asked} counts on stages that work at every step, for one "
        f"task: set {key}={needed} (or depth.clocks=[] and data without a task of the first stage's own)"
        for key, asked, needed in (("depth.update_probability", 0.5, 1.0), ("depth.inputs", "synthetic", "received"),
                                   ("optimizer.staleness", 0.5, 0.0))
    },
    "data.kind=two_clocks": "model=lstm reads symbols, and data=two_clocks gives vectors: use data=text or "
    "another model, say",
    "model.kind=two_clocks": "model=two_clocks reads vectors, and data=text gives symbols: use other data or "
    "model=lstm, say",
    "data.kind=two_clocks model._target_=tests.plugin.counting.Counter": "data=two_clocks has labels once a window, "
    "and model=Counter answers at every step: use other data or another model",
    TWO: "model=two_clocks needs network A alone in the first of two or more stages, not stages=4 "
    "model.split_points=[]: set stages=2 model.split_points=[lstm_b]",
    f"{TWO} stages=2 model.split_points=[softmax]": "model=two_clocks needs network A alone in the first of two or "
    "more "
    "stages, not stages=2 model.split_points=[softmax]: set stages=2 model.split_points=[lstm_b]",
    **{
        f"{CUT} depth.method={method}": "data=two_clocks has a task of the first stage's own, whose gradient is added "
        f"to that of its output, and depth={method} has none: use depth=synthetic or depth=backprop"
        for method in ("local", "delayed")
    },
    f"{CUT} time.method=synthetic": "data=two_clocks goes with time=truncated, not with time=synthetic",
    f"{CUT} data.window=3 data.sequence=12": "data.block_length=4 is not a multiple of data.window=3: set "
    "data.window=4, say",
    f"{CUT} data.window=2 data.sequence=18": "data.sequence=18 is not a multiple of data.block_length=4: set "
    "data.sequence=16, say (or data.sequence=null)",
    f"{CUT} data.window=4 data.sequence=16 evaluate.probe=9": "evaluate.probe=9 takes a whole sequence through all "
    "stages at one rate: set evaluate.probe=null",
    "loss._target_=dni.loss_function.SquaredError": "loss=squared_error is of numbers, and the labels of "
    "data=text are classes: set loss=cross_entropy (or data=series)",
    "data.kind=tokens": "data.path is not set: data=tokens data.path=FOLDER, which holds train.bin and valid.bin",
    "data.kind=series": "data.path is not set: data=series data.path=FILE, a .csv with names in its first line",
    "data.kind=series data.path=f.csv": "loss=cross_entropy is of classes, and the labels of data=series are numbers: "
    "set loss=squared_error",
    f"{SERIES} time.method=synthetic": "predictor.time=critic sees classes or symbols beside the state, and "
    "data=series has numbers: use predictor/time=linear or predictor/time=mlp predictor.time.context=none",
    f"{SERIES} data.valid_share=0": "data.valid_share=0 leaves nothing to validate on: set data.valid_share=0.1, say",
    f"{SERIES} data.valid_share=0.5 data.test_share=0.5": "data.valid_share=0.5 and data.test_share=0.5 leave nothing "
    "to train on: set data.valid_share=0.1 data.test_share=0.1, say",
    f"{SERIES} depth.inputs=synthetic": "depth.inputs=synthetic predicts from symbols or images, and data=series has "
    "vectors: set depth.inputs=received",
    "seed=1000000000000000": "seed=1000000000000000 must be below 1000000000000000",
    "launch.torch_threads=5000": "launch.torch_threads=5000 must be at most 4096",
    "model.units=10000000000000000000": "model.units=10000000000000000000 must be below 1000000000000000",
    **{f"{key}=0": f"{key}=0 must be 1 or more" for key in (
        "steps", "stages", "log_every", "model.units", "model.layers", "data.batch",
        "data.window", "data.sequence", "depth.max_in_flight", "predictor.time.future_labels", "evaluate.every",
        "evaluate.windows", "evaluate.patience", "evaluate.probe", "evaluate.probe_windows", "checkpoint.every",
        "checkpoint.keep", "launch.torch_threads", "transport.max_frame_mb", "optimizer.accumulate",
        "predictor.depth.pool_grid", "optimizer.schedule.decay_steps",
    )},
    **{f"{key}=-1": f"{key}=-1 must be 0 or more, and finite" for key in (
        "seed", "depth.lag", "predictor.depth.warmup", "predictor.time.warmup", "predictor.depth.hidden",
        "predictor.time.hidden", "optimizer.schedule.warmup_steps", "predictor.inputs.hidden",
    )},
    **{f"{key}=nan": f"{key}=nan must be 0 or more, and finite" for key in (
        "transport.delay_ms", "predictor.depth.learning_rate", "predictor.time.learning_rate",
        "predictor.depth.gradient_weight", "predictor.time.gradient_weight", "predictor.depth.scale",
        "predictor.time.scale", "optimizer.staleness", "predictor.depth.staleness_decay",
        "optimizer.weight_decay", "predictor.inputs.learning_rate",
        "emulate.forward_ms", "emulate.backward_ms", "emulate.cut_ms",
    )},
    **{f"{chosen} {key}=nan": f"{key}=nan must be 0 or more, and finite" for chosen, key in (
        ("depth.method=lambda_return", "depth.lambda_depth"), ("time.method=lambda_return", "time.lambda_"),
        ("time.method=auxiliary", "time.auxiliary"), ("depth.method=local", "depth.learning_rate"),
    )},
    **{f"{chosen} {key}=0": f"{key}=0 must be 1 or more" for chosen, key in (
        ("time.method=lambda_return", "time.horizon"), ("predictor.time.kind=mlp", "predictor.time.history"),
        ("predictor.depth.kind=mlp", "predictor.depth.hidden"), ("predictor.depth.kind=conv", "predictor.depth.hidden"),
    )},
    "depth.method=replay depth.replay=-1": "depth.replay=-1 must be 0 or more, and finite",
    "data.kind=mnist model.kind=cnn data.noise=nan": "data.noise=nan must be 0 or more, and finite",
    f"{TWO} data.block_length=0": "data.block_length=0 must be 1 or more",
    **{
        f"model.kind=transformer model.{key}=0": f"model.{key}=0 must be 1 or more"
        for key in ("heads", "memory")
    },
    **{f"{key}=1": f"{key}=1.0 must be 0 or more, and below 1" for key in (
        "model.dropout", "optimizer.beta1", "optimizer.beta2",
    )},
    "optimizer.kind=sgd optimizer.momentum=nan": "optimizer.momentum=nan must be 0 or more, and finite",
    "optimizer.kind=nadam optimizer.momentum_decay=nan": "optimizer.momentum_decay=nan must be 0 or more, and finite",
    **{f"optimizer.schedule.kind={kind} optimizer.schedule.final=1": "optimizer.schedule.final=1.0 must be 0 or more, "
       "and below 1" for kind in ("cosine", "linear", "step")},
    **{f"{key}={value}": f"{key}={float(value)} must be above 0, and finite" for key, value in (
        ("optimizer.learning_rate", "0"), ("optimizer.clip", "inf"), ("transport.timeout_s", "-2"),
        ("predictor.depth.clip", "0"), ("predictor.time.clip", "-1"), ("depth.update_probability", "0"),
    )},
}  # fmt: skip


def refused(overrides: str) -> pytest.ExceptionInfo[ConfigError]:
    with pytest.raises(ConfigError) as info:
        check(from_any(from_words(overrides)))
    return info


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_broken_rule_says_what_to_type(overrides: str) -> None:
    assert str(refused(overrides).value) == REFUSED[overrides]


@pytest.mark.parametrize(
    "overrides",
    [
        "evaluate.probe=9",
        "evaluate.probe=9 time.method=full",
        "evaluate.probe=9 model.kind=mlp",
        "evaluate.probe=9 stages=1 time.method=truncated",
        "evaluate.probe=9 data.kind=seqmnist time.method=full",
        "evaluate.probe=9 data.kind=repeat_copy data.length=32 data.window=4",
    ],
)
def test_a_probe_of_either_cut_can_be_run(overrides: str) -> None:
    assert refusal_of(check, from_any(from_words(overrides))) is None


@pytest.mark.parametrize(
    "overrides",
    [
        f"{EXTERNAL} transport.peers=[dni-0.dni:7000,dni-1.dni:7000] transport.insecure=true",
        f"{EXTERNAL} transport.peers=[a:1,b:1] transport.tls.cert=c transport.tls.key=k transport.tls.ca=a run_id=x",
        "launch.mode=external stages=3 transport.bind=0.0.0.0:7000 transport.insecure=true",
    ],
)
def test_stages_on_several_machines_can_be_run(overrides: str) -> None:
    assert refusal_of(check, from_any(from_words(overrides))) is None


def raised_in(paths: Iterable[Path]) -> set[tuple[Path, int]]:
    """File and line of every `raise ConfigError` in these files."""
    return {
        (path, node.lineno)
        for path in paths
        for node in of_rules(path)
        if isinstance(node, ast.Raise) and "ConfigError" in ast.unparse(node)
    }


def checks_of(paths: Iterable[Path]) -> set[tuple[Path, int]]:
    """The same in the methods that check settings, of classes which raise it elsewhere too."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith(("check", "_check")):
                raised = (each for each in ast.walk(node) if isinstance(each, ast.Raise))
                found |= {(path, each.lineno) for each in raised}
    return found


def of_rules(path: Path) -> Iterable[ast.AST]:
    """All parts of a file but the functions that look at this machine, which have tests of their own."""
    tree = ast.parse(path.read_text())
    elsewhere = {"check_machine", "credentials"}  # test_nccl, test_tls
    skipped = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in elsewhere]
    left_out = {part for node in skipped for part in ast.walk(node)}
    return [node for node in ast.walk(tree) if node not in left_out]


def test_every_rule_was_broken() -> None:
    ends = [refused(overrides).traceback[-1] for overrides in REFUSED]
    broken = {(Path(end.path), end.lineno + 1) for end in ends}
    elsewhere = {"pipelines.py", "pipelined.py"}  # tests/workers/config/test_pipeline_rules.py
    rules = [path for folder in (RULES, METHODS_OF_DNI, PREDICTORS) for path in folder.glob("*.py")]
    rules += [Path(module.__file__) for module in (dni.lr_schedule, dni.optimizers)]
    rules += [TRANSPORTS / "local.py", *TRANSPORTS.glob("*/transport.py")]
    parts = [Path(dni.loss_function.__file__), *(path for part in PARTS_OF_DNI for path in part.rglob("*.py"))]
    assert broken == raised_in(path for path in rules if path.name not in elsewhere) | checks_of(parts)


def refusal(capsys: pytest.CaptureFixture[str], run_dir: Path, *overrides: str) -> str:
    """The line that `dni-train OVERRIDES` ends with, its exit code being 2 and nothing having been written."""
    before = sorted(run_dir.rglob("*"))
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*overrides), run_dir)
    assert left.value.code == 2
    assert sorted(run_dir.rglob("*")) == before
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("dni-train: ")
    return line.removeprefix("dni-train: ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("nosuch=1", r"Could not override 'nosuch'.*dni-train --cfg job"),
        ("+nosuch=1", r"Key 'nosuch' not in 'Config'.*dni-train --cfg job"),
        ("depth.nosuch=1", r"Could not override 'depth\.nosuch'.*dni-train --cfg job"),
        ("+depth.nosuch=1", r"depth\.nosuch: Synthetic has no such setting; it has: max_in_flight, lag, inputs, "),
        ("depth.method=local", r"Could not override 'depth\.method'.* \(it is written depth=NAME, or depth\._target_="),
        ("time.method=full", r"Could not override 'time\.method'.* \(it is written time=NAME, or time\._target_="),
        (
            "predictor.depth.kind=mlp",
            r"'predictor\.depth\.kind'.* \(it is written predictor=NAME, or predictor\.depth\.",
        ),
        ("predictor.time.kind=oracle", r"\(it is written predictor=NAME, .* \(kind=oracle: time=oracle\) now\)"),
        ("predictor.time.context=window", r"\(it is written predictor=soft_label_critic for context=window"),
        ("predictor.time.horizon=3", r"\(it is written time=lambda_return time\.horizon=WINDOWS now\)"),
        ("predictor.depth.replay=3", r"\(it is written depth=replay depth\.replay=TARGETS now\)"),
        ("predictor=mlp predictor.depth.eager_loss=true", r"Could not override 'predictor\.depth\.eager_loss'"),
        (
            "predictor=mlp +predictor.depth.eager_loss=true",
            r"predictor\.depth\.eager_loss: Mlp has no such setting; it has",
        ),
        ("depth.max_inflight=3", r"did you mean `depth\.max_in_flight`"),
        (
            "depth=nosuch",
            r"Could not find 'depth/nosuch' Available options in 'depth': 1f1b backprop delayed gpipe interleaved_1f1b "
            "lambda_return local replay synthetic zero_bubble",
        ),
        ("experiment=nosuch", r"Available options in 'experiment': .*demo mnist smoke"),
        ("steps=abc", r"steps: Value 'abc' of type 'str' could not be converted to Integer"),
        ("steps=1.5", r"steps: Value '1.5' of type 'float' could not be converted to Integer"),
        ("steps=null", r"steps=null.*not Optional"),
        ("model.kind=rnn", r"Could not override 'model\.kind'.* \(it is written model=NAME, or model\._target_=MODULE"),
        ("data.kind=copy", r"Could not override 'data\.kind'.* \(it is written data=NAME, or data\._target_=MODULE"),
        ("+data.noise=1", r"data\.noise: Text has no such setting; it has: batch, window, sequence, "),
        ("model.split_points=softmax", r"model\.split_points: .*not a ListConfig"),
        ("optimizer.clip=yes", r"optimizer\.clip: Value 'yes' of type 'str' could not be converted to Float"),
        ("steps", r"Error parsing override 'steps' missing EQUAL"),
        ("data.path=${nosuch}", r"data\.path: Interpolation key 'nosuch' not found"),
        ("depth.lag=9", r"set depth\.max_in_flight=10 or more"),
        ("stages=6", r"stages is 6, but this model can be cut into 1 to 5, beginning at embedding, lstm1"),
        (
            "stages=2 model.split_points=[lstm9]",
            r"no layer lstm9; the layers are embedding, lstm1, lstm2, lstm3, softmax",
        ),
        ("devices=[tpu]", r"stage 0 asks for 'tpu': use auto, cpu or cuda:N"),
        ("devices=[cuda:99]", r"stage 0 asks for 'cuda:99', but this machine has \d+ GPUs: use auto or cpu"),
        (
            "transport=torch_distributed transport.backend=nccl devices=[cpu]",
            r"joins stages on GPUs, and stage 0 is on cpu: set devices=\[cuda:0,cuda:1\], say, or transport",
        ),
        ("data.path=/no/such/file", r"no such file or folder: /no/such/file; give a UTF-8 text file or a folder"),
        ("data.batch=100000", r"need 25700000 characters, it has \d+; use a longer text, a smaller batch or a shorter"),
        ("resume=/no/such/run", r"no config\.yaml in it; give the folder of a run, which dni-train wrote"),
    ],
)
def test_a_refusal_is_one_line_and_starts_nothing(
    overrides: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(message, refusal(capsys, tmp_path / "run", *overrides.split()))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A run of ten steps with checkpoints at 5 and 10, and how it was started."""
    started = (*SMALL, *LOCAL, "steps=10", "checkpoint.every=5")
    folder = tmp_path_factory.mktemp("earlier") / "run"
    launch(settings(*started), folder)
    return folder, started


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], r"has already taken 10 steps: set steps above that, not 10"),
        (
            ["steps=20", "max_timesteps=60"],
            r"has already run through 60 time steps: set max_timesteps above that, not 60",
        ),
        (["steps=20", "resume_step=7"], r"no complete checkpoint of step 7; complete are: \[5, 10\]"),
        (["steps=20", "seed=1"], r"was another run: seed was 0, now 1; leave these settings as they were"),
        (["steps=20", "model.units=9", "depth.lag=1"], r"model\.units was 8, now 9, depth\.lag was None, now 1"),
    ],
)
def test_a_run_that_cannot_go_on_as_asked_is_refused(
    more: list[str], message: str, earlier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = earlier
    line = refusal(capsys, tmp_path / "run", f"resume={folder}", *more)
    assert line.startswith(f"resume={folder}")
    assert re.search(message, line)


def test_a_run_without_a_complete_checkpoint_cannot_go_on(
    earlier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = earlier
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    line = refusal(capsys, tmp_path / "run", f"resume={tmp_path}", "steps=20")
    assert line == f"resume={tmp_path}: no checkpoint in it is complete; start the run anew, without resume"


def test_resuming_repeats_the_settings_of_the_run_and_new_ones_win(earlier: Any) -> None:
    """All of them, also those that a group sets; and a group that is given anew wins over them."""
    folder, started = earlier
    again, before = settings(f"resume={folder}", "steps=20", "transport=grpc"), settings(*started)
    assert (again.steps, again.transport.name, again.resume) == (20, "grpc", str(folder))
    assert again.launch == before.launch
    assert again.predictor == before.predictor
    assert again.model.units == 8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["depth.nosuch=1"], "Could not override 'depth.nosuch'"),
        (["time=synthetic", "model=mlp"], "time=synthetic needs a recurrent model"),
    ],
)
def test_the_command_itself_refuses_with_one_line(overrides: list[str], message: str, tmp_path: Path) -> None:
    done = run(tmp_path, *overrides)
    assert (done.code, done.out) == (2, [])
    (line,) = done.err
    assert line.startswith(f"dni-train: {message}")
    assert list(tmp_path.iterdir()) == []
