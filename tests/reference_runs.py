"""A fixed set of small runs that repeat bit for bit, to show that a change of the code does not change results.

    python -m tests.reference_runs record before.json       # at the commit before the change
    python -m tests.reference_runs compare before.json      # at the commit after it, on the same machine

Each run trains a few steps with settings that do not depend on the arrival of frames. Its results are a digest of its
losses and one of its parameters. Some runs are stopped half way and resumed. The last digits of a sum depend on the
processor, so compare digests on one machine only, and do not commit them. `make proof BASE=COMMIT` does both.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.pictures import digits
from tests.support.runs import parameters_of, tiny
from workers.launch.launcher import launch

Settings = dict[str, Any]

#: Settings that have a new name, as `{"section.new": "section.old"}`: the runs below are written in today's names.
RENAMED: dict[str, str] = {
    "depth.replay": "predictor.depth.replay",
    "depth.hidden": "predictor.depth.hidden",  # of depth=local
    "time.horizon": "predictor.time.horizon",
    "time.lambda_": "predictor.time.lambda_",
    "time.auxiliary": "predictor.time.auxiliary",
    "time.method=oracle": "predictor.time.kind=oracle",
    "depth.method=synthetic_inputs": "depth.inputs=synthetic",
    "depth.method=irregular": "depth.method=synthetic",  # with depth.update_probability
    "depth.method=multi_rate": "depth.method=synthetic",
    "depth.update_periods": "depth.clocks",
    "predictor.time.kind=soft_label_critic": "predictor.time.context=window",  # of a critic
}

LAGGED: Settings = {"method": "synthetic", "lag": 1}
CRITIC: Settings = {"kind": "critic", "hidden": 8, "future_labels": 2}
WINDOWED: Settings = {"kind": "soft_label_critic", "history": 5, "future_labels": 9}
REGRESSOR: Settings = {"kind": "mlp", "hidden": 8, "context": "none"}
COPY: Settings = {"kind": "copy", "length": 15, "sequence": None}


def in_depth(**changes: Any) -> Settings:
    """Three stages that predict in depth, with some settings of the predictor changed."""
    return {"stages": 3, "depth": LAGGED, "predictor": {"depth": changes}}


def in_time(*, depth: Settings | None = None, data: Settings | None = None, **changes: Any) -> Settings:
    """Return two stages that predict in time, with changed settings of the time cut."""
    return {
        "depth": depth or {"method": "backprop"},
        "time": {"method": "synthetic"},
        "data": data or {},
        "predictor": {"time": CRITIC | changes},
    }


def image(folder: Path, kind: str, **changes: Any) -> Settings:
    """Return an image model of two stages on a few digits."""
    data = {"kind": "mnist", "path": str(folder), "batch": 8, "window": 1, "sequence": None}
    data |= changes.pop("data", {})
    return {"model": {"kind": kind, "units": 4, "layers": 3}, "data": data, "depth": LAGGED, **changes}


def runs(folder: Path) -> dict[str, Settings]:
    """Return every run by name; `folder` has digits in the format of MNIST."""
    locked = {"method": "backprop"}
    pipeline = {"launch": {"mode": "processes"}, "transport": {"kind": "grpc"}}
    return {
        # in depth
        "backprop": {"stages": 3, "depth": locked},
        "critic": in_depth(),
        "critic, block": in_depth(hidden=8, gradient_weight=0.5, warmup=2, scale=0.5, clip=1.0, steps_per_target=2),
        "critic, at once, fade": in_depth(eager_loss=True, staleness_decay=1.0),
        "critic, replay": {**in_depth(), "depth": {**LAGGED, "method": "replay", "replay": 2}},
        "regressor": in_depth(kind="mlp", hidden=8),
        "regressor, no labels": in_depth(kind="linear", labels=False),
        "lambda returns": {**in_depth(), "depth": {**LAGGED, "method": "lambda_return", "max_in_flight": 8}},
        "inputs": {**in_depth(), "depth": {**LAGGED, "method": "synthetic_inputs"}},
        "irregular": {**in_depth(), "depth": {**LAGGED, "method": "irregular", "update_probability": 0.5}},
        "rates": {"depth": {**LAGGED, "method": "multi_rate", "update_periods": [1, 2]}, "stages": 2},
        "local": {"stages": 3, "depth": {"method": "local", "hidden": 8}},
        "corrected": {
            "stages": 3,
            "depth": {**LAGGED, "method": "corrected", "correction_lambda": 0.5, "orders": 2},
            "predictor": {"depth": {"kind": "norm_head", "hidden": 8, "gradient_weight": 0.5}},
        },
        "delayed": {"stages": 3, "depth": {"method": "delayed", "lag": 1}, "optimizer": {"staleness": 0.5}},
        "delayed, newest weights": {"stages": 3, "depth": {"method": "delayed", "lag": 1, "stash": False}},
        **{
            name: {"model": {"layers": 6}, "depth": {"method": name, "microbatches": 2}, **pipeline}
            for name in ("gpipe", "1f1b", "interleaved_1f1b", "zero_bubble")
        },
        # in time
        "full": {"depth": locked, "time": {"method": "full"}},
        "checkpointed": {"depth": locked, "time": {"method": "checkpointed"}},
        "time critic": in_time(),
        "time critic, both": in_time(depth=LAGGED),
        "time critic, stream": in_time(data={"streaming": True}, **WINDOWED),
        "time regressor": in_time(**REGRESSOR),
        "time regressor, context": in_time(**{**REGRESSOR, "context": "future_labels"}),
        "time lambda returns": {**in_time(), "time": {"method": "lambda_return", "horizon": 3, "lambda_": 0.9}},
        "time auxiliary": {**in_time(), "time": {"method": "auxiliary", "auxiliary": 0.5, "hidden": 8}},
        "time oracle": {"stages": 1, "depth": locked, "data": COPY, "time": {"method": "oracle"}},
        "copy, curriculum": in_time(data={**COPY, "length": None}),
        "repeat copy": {"depth": locked, "data": {**COPY, "kind": "repeat_copy", "length": None}},
        # models, data
        **{kind: {"model": {"kind": kind}, "depth": LAGGED} for kind in ("gru", "mingru", "transformer", "mlp")},
        "sequential mnist": {"depth": LAGGED, "data": {"kind": "seqmnist", "path": str(folder), "side": 7}},
        "mlp_bn": image(folder, "mlp_bn"),
        "cnn": image(folder, "cnn", predictor={"depth": {"kind": "conv", "hidden": 8}}),
        "resnet": {**image(folder, "resnet"), "model": {"kind": "resnet", "units": 4, "layers": 1}},
        "image noise": image(folder, "mlp_bn", data={"noise": 0.1}, optimizer={"kind": "sgd", "momentum": 0.9}),
        "two clocks": {
            "model": {"kind": "two_clocks", "units": 6, "split_points": ["lstm_b"]},
            "data": {
                "kind": "two_clocks",
                "path": str(folder),
                "side": 7,
                "batch": 2,
                "window": 3,
                "block_length": 3,
                "sequence": 9,
            },
            "depth": {**LAGGED, "method": "multi_rate", "update_periods": [1, 3]},
        },
        # optimizers
        "adamw, cosine": {
            "depth": locked,
            "optimizer": {"kind": "adamw", "schedule": {"kind": "cosine", "warmup_steps": 3}},
        },
        "nadam": {"depth": locked, "optimizer": {"kind": "nadam", "weight_decay": 0.1}},
        "accumulate": {"depth": LAGGED, "optimizer": {"accumulate": 3}},
        "dropout": {"depth": LAGGED, "model": {"dropout": 0.2, "init": "he"}},
        # transports
        "grpc": {"stages": 3, "depth": LAGGED, "transport": {"kind": "grpc"}},
        "grpc, processes": {"depth": LAGGED, "transport": {"kind": "grpc"}, "launch": {"mode": "processes"}},
        "torch_distributed": {"stages": 3, "depth": LAGGED, "transport": {"kind": "torch_distributed"}},
    }


#: Runs that are stopped after half of their steps and resumed, too.
RESUMED = (
    "backprop", "critic", "critic, replay", "lambda returns", "inputs", "rates", "delayed", "corrected",
    "time lambda returns", "time critic, stream", "copy, curriculum", "dropout", "adamw, cosine",
)  # fmt: skip


def digests(run_dir: Path, stages: int) -> dict[str, str]:
    """Return a digest of a run's losses, and one of its parameters in the order of their names."""
    losses, parameters = hashlib.sha256(), hashlib.sha256()
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in sorted(records, key=lambda r: (r["step"], r["stage"], r["kind"])):
        if record.get("loss") is not None:
            losses.update(struct.pack("<qqd", record["step"], record["stage"], record["loss"]))
    for _, tensor in sorted(parameters_of(run_dir, stages).items()):
        parameters.update(tensor.numpy().tobytes())
    return {"losses": losses.hexdigest()[:16], "parameters": parameters.hexdigest()[:16]}


def measure(folder: Path) -> dict[str, dict[str, str]]:
    """Run everything, in subfolders of `folder`."""
    found: dict[str, dict[str, str]] = {}
    everything = runs(digits(folder / "digits", train=200))
    for number, (name, settings) in enumerate(everything.items()):
        print(f"{number + 1} of {len(everything)}: {name}", file=sys.stderr, flush=True)
        config = tiny(**{"steps": 12, **settings})
        parts = config.parts
        launch(config, folder / f"run-{number}")
        found[name] = digests(folder / f"run-{number}", parts)
        if name in RESUMED:
            first = folder / f"run-{number}-first"
            launch(tiny(**{**settings, "steps": 6, **_whole_schedule(settings)}), first)
            again = {**settings, "steps": 12, "resume": str(first), **_whole_schedule(settings)}
            launch(tiny(**again), folder / f"run-{number}-resumed")
            found[f"{name}, resumed"] = digests(folder / f"run-{number}-resumed", parts)
    return found


def _whole_schedule(settings: Settings) -> Settings:
    """Give a part of a run the schedule of the whole run."""
    own = settings.get("optimizer", {})
    return {"optimizer": {**own, "schedule": {**own["schedule"], "decay_steps": 12}}} if "schedule" in own else {}


def main() -> int:
    """Return 0, or 1 if a digest differs."""
    order, file = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    if order == "record":
        file.write_text(json.dumps(found, indent=2) + "\n")
        return 0
    before = json.loads(file.read_text())
    for name in sorted(before.keys() | found.keys()):
        same = before.get(name) == found.get(name)
        print(f"{'same' if same else 'DIFFERENT':9}  {name:32}  {before.get(name)}  {found.get(name)}")
    return int(before != found)


if __name__ == "__main__":
    sys.exit(main())
