"""From settings to the cuts of one stage: where its gradients come from, and what its predictors are taught."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from dni.data.source import Source
from dni.errors import ConfigError
from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.local_objective import LocalObjective
from dni.interfaces.loss import LossInterface
from dni.interfaces.wrapper import MultiRateInterface
from dni.methods.cut import CutContext, TimeCutContext
from dni.predictors.base import Predictor
from dni.recurrent import Chain
from dni.rng import happens
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap
from workers.build.shapes import activation_shape
from workers.config.settings import Config

_META = torch.device("meta")

#: Of one predictor of feature maps; with what Adam keeps, 16 bytes each.
MOST_WEIGHTS = 2**24


def goes_back(config: Config, index: int, step: int) -> bool:
    """Whether a stage updates at a step, and answers with a gradient; every stage can tell it of every other."""
    return happens(config.depth.update_probability, config.seed, index, step)


def depth_interface(config: Config, index: int, stage: Stage) -> Interface:
    """Where dL/d output comes from at the downstream edge of a stage."""
    if index == config.stages - 1:
        return LossInterface(config.loss)
    context, clocks = depth_context(config, index, stage.device), config.depth.clocks[index : index + 2]
    torch.manual_seed(_seed(config, index))
    interface = config.depth.interface(context)
    if clocks and clocks[0] < clocks[1]:
        interface = MultiRateInterface(interface, clocks[1])
    if index == 0 and config.data.own_classes:
        torch.manual_seed(_seed(config, 3 * config.stages))
        classes, rate = config.data.own_classes, config.optimizer.learning_rate
        interface = LocalObjective(
            interface, context.shape[-1], classes=classes, learning_rate=rate, device=stage.device
        )
    return interface


def time_interface(config: Config, index: int, stage: Stage, source: Source | None = None) -> Interface:
    """Where dL/d state comes from at the end of a window. `source`: of the training windows."""
    if not _state_features(stage.module):
        return ZeroInterface()
    torch.manual_seed(_seed(config, config.stages + index))
    return config.time.interface(time_context(config, index, stage.module, stage.device, source))


def bootstrap(config: Config, index: int, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
    """What makes the targets of the time cut."""
    if not _state_features(stage.module):
        return Bootstrap()
    torch.manual_seed(_seed(config, 2 * config.stages + index))
    return config.time.targets(time_context(config, index, stage.module, stage.device), stage, depth, time)


def depth_context(config: Config, index: int, device: torch.device) -> CutContext:
    """What a method may know of the cut after a stage that is not the last."""
    model = config.model
    return CutContext(
        index,
        config.stages,
        shape=activation_shape(config, index),
        classes=model.symbols or 0,
        inputs=model.input_symbols or 0,
        device=device,
        predictor=config.predictor.depth,
        loss=config.loss,
        expects=partial(goes_back, config, index + 1),
    )


def time_context(
    config: Config, index: int, module: Chain, device: torch.device, source: Source | None = None
) -> TimeCutContext:
    """What a method may know of the cut after each window of a stage that carries state."""
    model = config.model
    return TimeCutContext(
        index,
        config.stages,
        shape=(_state_features(module),),
        classes=model.symbols or 0,
        inputs=model.input_symbols or 0,
        device=device,
        predictor=config.predictor.time,
        expects=lambda step: goes_back(config, index, step + 1),
        window=config.window,
        module=module,
        rest=None if source is None else source.rest,
        loss=config.loss,
    )


def learners(config: Config, index: int, chain: Chain) -> dict[str, nn.Module]:
    """What learns at the cuts of a stage, in "depth" and in "time", of which only names and shapes are known."""
    found: dict[str, nn.Module | None] = {}
    if config.pipelined:
        return {}
    with _META:
        if index < config.stages - 1:
            found["depth"] = config.depth.learner(depth_context(config, index, _META))
        if _state_features(chain):
            found["time"] = config.time.learner(time_context(config, index, chain, _META))
    return {cut: learner for cut, learner in found.items() if learner is not None}


def refuse_large(config: Config) -> None:
    """Raise ConfigError if the predictor of some stage's feature maps would have too many weights."""
    for index in range(0 if config.pipelined else config.stages - 1):
        shape = activation_shape(config, index)
        if len(shape) < 3:
            continue
        with _META:  # counted, not made
            learner = config.depth.learner(depth_context(config, index, _META))
        weights = sum(p.numel() for p in learner.parameters()) if isinstance(learner, Predictor) else 0
        if weights > MOST_WEIGHTS:
            raise ConfigError(
                f"predictor={config.predictor.depth.name} would have {weights:,} weights for the {shape} feature "
                f"maps of stage {index}, more than {MOST_WEIGHTS:,}: use predictor=conv, or predictor=critic"
            )


def _seed(config: Config, salt: int) -> int:
    return config.seed * 1000 + 500 + salt


def _state_features(module: Chain) -> int:
    """F of the stage's packed state."""
    return sum(s.numel() for s in module.initial_state(1))
