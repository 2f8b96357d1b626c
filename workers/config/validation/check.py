"""The rules between settings: what the schema's types cannot say."""

from __future__ import annotations

import math

from dni.errors import ConfigError
from workers.config.schema import (
    Context,
    DataKind,
    ModelKind,
    PredictorKind,
    TimeMethod,
    TimePredictorConfig,
)
from workers.config.settings import Config
from workers.config.validation.clocks import check_clocks
from workers.config.validation.depth import check_depth
from workers.config.validation.images import check_images
from workers.config.validation.launch import check_launch, check_links
from workers.config.validation.pipelines import check_pipelines
from workers.config.validation.ranges import check_numbers
from workers.config.validation.training import check_training


def check(config: Config) -> None:
    """Refuse settings that cannot be run, with one line that says what to type instead. Raises ConfigError."""
    check_numbers(config)
    check_clocks(config)
    check_images(config)
    check_training(config)
    check_depth(config)
    check_pipelines(config)
    check_launch(config)
    depth, time, data = config.depth, config.time, config.data
    depth.check(config)
    config.optimizer.check(config)
    if config.whole_sequences and data.sequence is None and data.kind is DataKind.text:
        raise ConfigError(
            f"time={time.method.name} backpropagates through whole sequences: set data.sequence to their length, "
            f"data.sequence={8 * data.window} say (or time=truncated)"
        )
    if data.sequence is not None and data.sequence % data.window:
        nearest = max(1, round(data.sequence / data.window)) * data.window
        raise ConfigError(
            f"data.sequence={data.sequence} is not a multiple of data.window={data.window}: "
            f"set data.sequence={nearest}, say (or data.sequence=null)"
        )
    if time.method is TimeMethod.synthetic and config.model.kind is ModelKind.mlp:
        raise ConfigError("time=synthetic needs a recurrent model: model=mlp carries no state; use model=lstm, say")
    if config.predictor.depth.kind is PredictorKind.oracle:
        raise ConfigError("predictor.depth.kind=oracle: there is no oracle in depth; set predictor.depth.kind=critic")
    if config.predictor.depth.at_once and config.predictor.depth.kind is not PredictorKind.critic:
        raise ConfigError(
            f"predictor.depth.at_once=true: a predictor of kind {config.predictor.depth.kind.name} learns from targets "
            "alone; set predictor.depth.at_once=false, or use predictor=critic"
        )
    if config.predictor.depth.fade and not config.predictor.depth.at_once:
        raise ConfigError(
            f"predictor.depth.fade={config.predictor.depth.fade} makes late targets count for less beside a loss that "
            "is learned at once: set predictor.depth.at_once=true (or predictor.depth.fade=0)"
        )
    if time.method is TimeMethod.synthetic:
        _check_time_targets(config.predictor.time)
        _check_context(config)
    if config.model.kind is ModelKind.transformer and config.model.units % config.model.heads:
        units, heads = config.model.units, config.model.heads
        raise ConfigError(
            f"model.heads={heads} does not divide model.units={units}: "
            f"set model.units={math.ceil(units / heads) * heads}, say"
        )
    config.transport.check(config)
    if config.resume_step is not None and config.resume is None:
        raise ConfigError(
            f"resume_step={config.resume_step} needs the folder of the run to go on from: add resume=FOLDER"
        )
    if config.start_step is not None and config.start_from is None:
        raise ConfigError(f"start_step={config.start_step} needs the folder of a run: add start_from=FOLDER")
    if config.evaluate.probe is not None:
        _check_probe(config)
    if not config.transport.within_process:
        check_links(config)
    if config.evaluate.patience is not None:
        _check_patience(config)
    if len(config.devices) not in (1, config.stages):
        raise ConfigError(
            f"devices names {len(config.devices)} devices for {config.stages} stages: name one, or one each"
        )
    cuts = len(config.model.cut_at)
    if cuts and cuts != config.parts - 1:
        chunks = f" depth.chunks={config.parts // config.stages}" if config.parts > config.stages else ""
        raise ConfigError(
            f"model.cut_at names {cuts} cuts, which makes {cuts + 1} stages, but stages={config.stages}{chunks}: "
            "change one, or set model.cut_at=[] to cut by balance"
        )


def _check_time_targets(cut: TimePredictorConfig) -> None:
    if cut.lambda_ > 1:
        raise ConfigError(
            f"predictor.time.lambda_={cut.lambda_} must be at most 1: from 0, where every target starts from the next "
            "prediction, to 1, where it starts from the last one of a horizon"
        )
    if cut.lambda_ and cut.horizon == 1:
        raise ConfigError(
            f"predictor.time.lambda_={cut.lambda_} mixes the targets of several windows: set predictor.time.horizon=4, "
            "say (or predictor.time.lambda_=0)"
        )
    if cut.auxiliary and cut.horizon > 1:
        raise ConfigError(
            f"predictor.time.auxiliary={cut.auxiliary} needs the target of every window at once, and "
            f"predictor.time.horizon={cut.horizon} makes them together: set predictor.time.horizon=1 (or "
            "predictor.time.auxiliary=0)"
        )


def _check_context(config: Config) -> None:
    """What a predictor of the time cut sees beside the state."""
    cut = config.predictor.time
    if cut.kind is PredictorKind.oracle:
        _check_oracle(config)
    if cut.kind is PredictorKind.critic and cut.context is Context.none:
        raise ConfigError(
            "predictor.time.kind=critic models the losses of labels: set predictor.time.context=lookahead (or window, "
            "where the labels after a window are not known yet)"
        )
    if cut.kind is PredictorKind.critic and cut.context is Context.window and (cut.horizon > 1 or cut.auxiliary):
        raise ConfigError(
            "predictor.time.context=window makes a critic learn when the labels have come, from the plain target: set "
            "predictor.time.horizon=1 and predictor.time.auxiliary=0"
        )
    if config.data.streaming and config.lookahead:
        raise ConfigError(
            "data.streaming=true: the labels after a window are not known yet: set predictor.time.context=window"
        )


def _check_oracle(config: Config) -> None:
    """It needs the whole model and the rest of the sequence at hand, and learns nothing."""
    data, cut = config.data, config.predictor.time
    if config.stages > 1 or data.kind not in (DataKind.copy, DataKind.repeat_copy) or data.streaming:
        raise ConfigError(
            f"predictor.time.kind=oracle runs the rest of a sequence through the whole model: it needs stages=1, "
            f"data=copy or repeat_copy and data.streaming=false, not stages={config.stages} data={data.kind.name} "
            f"data.streaming={str(data.streaming).lower()}"
        )
    if cut.horizon > 1 or cut.auxiliary:
        raise ConfigError(
            "predictor.time.kind=oracle is taught nothing: set predictor.time.horizon=1 and predictor.time.auxiliary=0"
        )


def _check_probe(config: Config) -> None:
    data, asked = config.data, f"evaluate.probe={config.evaluate.probe}"
    if config.time.method is TimeMethod.checkpointed:
        raise ConfigError(
            f"{asked} keeps all activations of a sequence, which time=checkpointed is there to avoid: "
            "set evaluate.probe=null (or time=full)"
        )
    true = config.stages == 1 or not config.depth.predicts
    if true and (config.whole_sequences or config.model.kind is ModelKind.mlp):
        raise ConfigError(
            f"{asked} has nothing to measure, for no gradient is cut in time or predicted in depth: "
            "set evaluate.probe=null"
        )
    if config.predictor.time.kind is PredictorKind.oracle:
        raise ConfigError(f"{asked} would compare an oracle with itself: set evaluate.probe=null")
    late = {DataKind.seqmnist: data.side**2, DataKind.copy: data.length, DataKind.repeat_copy: data.length}
    steps = late.get(data.kind) or 0
    windows = 1 if config.whole_sequences else math.ceil(steps / config.window)
    if windows > config.evaluate.probe_windows:
        raise ConfigError(
            f"evaluate.probe_windows={config.evaluate.probe_windows} is less than a sequence, whose labels come last: "
            f"set evaluate.probe_windows={windows}"
        )


def _check_patience(config: Config) -> None:
    asked, kind = f"evaluate.patience={config.evaluate.patience}", config.data.kind
    if config.evaluate.every is None:
        raise ConfigError(
            f"{asked} counts validation passes, and with evaluate.every=null there is one, at the end: "
            "set evaluate.every=250, say (or evaluate.patience=null)"
        )
    if kind in (DataKind.copy, DataKind.repeat_copy) and config.data.length is None:
        raise ConfigError(
            f"{asked} needs validation, and the curriculum of data={kind.name} has none: set data.length "
            "(or evaluate.patience=null)"
        )
