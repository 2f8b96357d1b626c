"""The rules between settings: what the schema's types cannot say."""

from __future__ import annotations

import math

from dni.errors import ConfigError
from dni.models.base import SplitKind, TiedKind
from dni.predictors.head_settings import CopiedHead
from workers.config.settings import Config
from workers.config.validation.launch import check_launch, check_links
from workers.config.validation.pipelines import check_pipelines
from workers.config.validation.ranges import check_numbers


def check(config: Config) -> None:
    """Refuse settings that cannot be run, with one line that says what to type instead. Raises ConfigError."""
    check_numbers(config)
    for section in (config.model, config.data, config.loss):
        section.check(config)
    check_pipelines(config)
    check_launch(config)
    for part in (config.depth, config.time, config.predictor.depth, config.predictor.time, config.optimizer):
        part.check(config)
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
    _check_split(config)
    _check_histograms(config)
    if config.depth.predicts_inputs:
        _check_unlocked(config)


def _check_split(config: Config) -> None:
    points = config.model.split_points
    if points and config.model.split is SplitKind.measured and config.resume is None:
        raise ConfigError(
            f"model.split=measured chooses the cuts, and model.split_points=[{','.join(points)}] names them: set "
            "model.split_points=[] (or model.split=parameters)"
        )
    cuts = len(points)
    if cuts and cuts != config.parts - 1:
        each = config.parts // config.stages
        several = f" depth.virtual_stages={each}" if each > 1 else ""
        raise ConfigError(
            f"model.split_points names {cuts} cuts, which makes {cuts + 1} stages, but "
            f"stages={config.stages}{several}: change one, or set model.split_points=[] to cut by balance"
        )


def _check_histograms(config: Config) -> None:
    asked = f"tracking.histograms={config.tracking.histograms}"
    without = "(or tracking.histograms=null)"
    if config.tracking.histograms is None:
        return
    if not config.tensorboard:
        raise ConfigError(f"{asked} are shown by TensorBoard alone: set tensorboard=true {without}")
    if config.compile:
        raise ConfigError(f"{asked} look at every layer, and compile=true joins them: set compile=false {without}")
    if config.pipelined:
        raise ConfigError(
            f"{asked} look at the stages of dni, and depth={config.depth.name} runs those of torch: set depth=backprop "
            f"{without}"
        )


def _check_unlocked(config: Config) -> None:
    """Refuse what rides along with frames where a stage does not wait for them."""
    waits = f"which depth={config.depth.name} does not wait for"
    if config.model.tied is TiedKind.sum:
        raise ConfigError(
            f"model.tied=sum sends values with the frames, {waits}: set model.tied=copy (or depth=synthetic)"
        )
    if isinstance(config.predictor.depth, CopiedHead):
        raise ConfigError(
            f"predictor=copied_head sends weights with the replies to frames, {waits}: use predictor=block_head (or "
            "depth=synthetic)"
        )
    if config.optimizer.over_all_stages:
        raise ConfigError(
            f"optimizer.clip_norm=global sends norms with the frames, {waits}: set optimizer.clip_norm=stage (or "
            "depth=synthetic)"
        )


def _check_probe(config: Config) -> None:
    asked = f"evaluate.probe={config.evaluate.probe}"
    true = config.stages == 1 or not config.depth.predicts
    if true and (config.whole_sequences or not config.model.carries_state):
        raise ConfigError(
            f"{asked} has nothing to measure, for no gradient is cut in time or predicted in depth: "
            "set evaluate.probe=null"
        )
    windows = 1 if config.whole_sequences else math.ceil(config.data.label_delay / config.window)
    if windows > config.evaluate.probe_windows:
        raise ConfigError(
            f"evaluate.probe_windows={config.evaluate.probe_windows} is less than a sequence, whose labels come last: "
            f"set evaluate.probe_windows={windows}"
        )


def _check_patience(config: Config) -> None:
    asked = f"evaluate.patience={config.evaluate.patience}"
    if config.evaluate.every is None:
        raise ConfigError(
            f"{asked} counts validation passes, and with evaluate.every=null there is one, at the end: "
            "set evaluate.every=250, say (or evaluate.patience=null)"
        )
    if config.data.grows:
        raise ConfigError(
            f"{asked} needs validation, and the curriculum of data={config.data.name} has none: set data.length "
            "(or evaluate.patience=null)"
        )
