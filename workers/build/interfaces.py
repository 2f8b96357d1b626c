"""From settings to the cuts of one stage: where its gradients come from, and what its predictors are taught."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from dni.data.source import Source
from dni.errors import ConfigError
from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.local_objective import OwnTask
from dni.interfaces.loss import LossInterface
from dni.interfaces.oracle import OracleInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.interfaces.wrapper import SlowerInterface
from dni.methods.base import CutContext
from dni.methods.synthetic import Synthetic
from dni.predictors.base import Predictor
from dni.predictors.convolutional import ConvRegressor, Flattened, PooledCritic
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.predictors.soft_label_critic import GuessingCritic
from dni.recurrent import Chain
from dni.rng import happens
from dni.stages.base import Stage
from dni.time_targets.auxiliary import Auxiliary
from dni.time_targets.base import Bootstrap
from dni.time_targets.deferred import Hindsight
from dni.time_targets.lambda_return import Horizon
from workers.build.shapes import activation_shape
from workers.config.schema import (
    Context,
    CutPredictorConfig,
    DepthPredictorConfig,
    PredictorKind,
    TimeMethod,
    TimePredictorConfig,
)
from workers.config.settings import Config

_CPU = torch.device("cpu")

#: Of one predictor of feature maps; with what Adam keeps, 16 bytes each.
MOST_WEIGHTS = 2**24


def goes_back(config: Config, index: int, step: int) -> bool:
    """Whether a stage updates at a step, and answers with a gradient; every stage can tell it of every other."""
    return happens(config.depth.update_probability, config.seed, index, step)


def depth_interface(config: Config, index: int, stage: Stage) -> Interface:
    """Where dL/d output comes from at the downstream edge of a stage."""
    if index == config.stages - 1:
        return LossInterface(config.loss)
    interface, clocks = _of_the_next(config, index, stage), config.depth.clocks[index : index + 2]
    if clocks and clocks[0] < clocks[1]:
        interface = SlowerInterface(interface, clocks[1])
    if index == 0 and config.data.own_classes:
        features, classes = activation_shape(config, 0)[-1], config.data.own_classes
        torch.manual_seed(_seed(config, 3 * config.stages))
        rate = config.optimizer.learning_rate
        interface = OwnTask(interface, features, classes=classes, learning_rate=rate, device=stage.device)
    return interface


def cut_context(config: Config, index: int, device: torch.device = _CPU) -> CutContext:
    """What a method may know of the cut after a stage that is not the last."""
    cut, shape = config.predictor.depth, activation_shape(config, index)

    def predicted() -> DecoupledInterface:
        made = _depth_predictor(config, cut, shape).to(device)
        expects = partial(goes_back, config, index + 1)
        memory = config.depth.window + 2
        return _decoupled(made, cut, memory=memory, replay=cut.replay, fade=cut.fade, expects=expects)

    return CutContext(index, config.stages, shape, config.model.symbols or 0, device, cut, predicted)


def _of_the_next(config: Config, index: int, stage: Stage) -> Interface:
    """What stands for the stages that follow."""
    context = cut_context(config, index, stage.device)
    torch.manual_seed(_seed(config, index))
    return config.depth.interface(context)


def learners(config: Config, index: int, chain: Chain) -> dict[str, nn.Module]:
    """What learns at the cuts of a stage, in "depth" and in "time", of which only names and shapes are known."""
    found: dict[str, nn.Module] = {}
    features = sum(s.numel() for s in chain.initial_state(1))
    if config.pipelined:
        return found
    with torch.device("meta"):
        if index < config.stages - 1:
            learner = config.depth.learner(cut_context(config, index, torch.device("meta")))
            found |= {} if learner is None else {"depth": learner}
        in_time = config.predictor.time
        if config.time.method is TimeMethod.synthetic and features and in_time.kind is not PredictorKind.oracle:
            found["time"] = _time_predictor(config, in_time, features)
    return found


def refuse_large(config: Config) -> None:
    """Raise ConfigError if the predictor of some stage's feature maps would have too many weights."""
    cut = config.predictor.depth
    for index in range(config.stages - 1 if isinstance(config.depth, Synthetic) else 0):
        shape = activation_shape(config, index)
        if len(shape) < 3:
            continue
        with torch.device("meta"):  # counted, not made
            weights = sum(p.numel() for p in _depth_predictor(config, cut, shape).parameters())
        if weights > MOST_WEIGHTS:
            raise ConfigError(
                f"predictor.depth.kind={cut.kind.name} would have {weights:,} weights for the {shape} feature maps of "
                f"stage {index}, more than {MOST_WEIGHTS:,}: use predictor=conv, or predictor=critic"
            )


def time_interface(config: Config, index: int, stage: Stage, source: Source | None = None) -> Interface:
    """Where dL/d state comes from at the end of a window. `source`: of the training windows, for an oracle."""
    features = _state_features(stage)
    if config.time.method is not TimeMethod.synthetic or not features:
        return ZeroInterface()
    cut = config.predictor.time
    if cut.kind is PredictorKind.oracle:
        assert source is not None, "the rules between settings see to it"
        return OracleInterface(stage.module, source.rest, config.loss)
    waiting = -(-cut.lookahead // config.window) if _learns_late(cut) else cut.horizon
    torch.manual_seed(_seed(config, config.stages + index))
    predictor = _time_predictor(config, cut, features).to(stage.device)
    return _decoupled(predictor, cut, memory=waiting + 1, expects=lambda step: goes_back(config, index, step + 1))


def bootstrap(config: Config, index: int, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
    """What makes the targets of the time cut."""
    cut = config.predictor.time
    if not isinstance(time, DecoupledInterface):
        return Bootstrap()
    if _learns_late(cut):
        return Hindsight(cut.lookahead)
    if cut.horizon > 1:
        return Horizon(stage, depth, time, windows=cut.horizon, mix=cut.lambda_)
    if cut.auxiliary:
        return Auxiliary(_auxiliary_head(config, index, stage), cut.auxiliary)
    return Bootstrap()


def _learns_late(cut: TimePredictorConfig) -> bool:
    """Whether the predictor learns from labels that come after it was asked."""
    return cut.kind is PredictorKind.critic and cut.context is Context.window


def _decoupled(
    predictor: Predictor,
    cut: CutPredictorConfig,
    *,
    memory: int,
    replay: int = 0,
    fade: float = 0.0,
    expects: Callable[[int], bool] | None = None,
) -> DecoupledInterface:
    optimizer = torch.optim.Adam(predictor.parameters(), cut.learning_rate, fused=True)
    return DecoupledInterface(
        predictor, optimizer, warmup=cut.warmup, fits=cut.fits, scale=cut.scale, clip=cut.clip, memory=memory,
        replay=replay, fade=fade, expects=expects,
    )  # fmt: skip


def _seed(config: Config, salt: int) -> int:
    return config.seed * 1000 + 500 + salt


def _depth_predictor(config: Config, cut: DepthPredictorConfig, shape: tuple[int, ...]) -> Predictor:
    symbols = config.model.symbols or 0
    if len(shape) == 3:
        return _maps_predictor(cut, shape, symbols)
    (features,) = shape
    if cut.kind is PredictorKind.critic:
        return SoftmaxCritic(features, **_critic(cut, symbols))
    return Regressor(features, hidden=_hidden(cut), classes=symbols if cut.labels else 0)


def _critic(cut: DepthPredictorConfig, symbols: int) -> dict[str, Any]:
    return {"classes": symbols, "hidden": cut.hidden, "match": cut.match, "at_once": cut.at_once}


def _maps_predictor(cut: DepthPredictorConfig, shape: tuple[int, ...], symbols: int) -> Predictor:
    classes = symbols if cut.labels else 0
    if cut.kind is PredictorKind.conv:
        return ConvRegressor(shape[0], hidden=cut.hidden, classes=classes)
    if cut.kind is PredictorKind.critic:
        critic = PooledCritic(shape, cells=cut.cells, **_critic(cut, symbols))
        return Flattened(critic)
    return Flattened(Regressor(math.prod(shape), hidden=_hidden(cut), classes=classes))


def _time_predictor(config: Config, cut: TimePredictorConfig, features: int) -> Predictor:
    symbols, inputs = config.model.symbols or 0, config.model.input_symbols or 0
    if cut.kind is PredictorKind.critic:
        shape: dict[str, Any] = {"classes": symbols, "lookahead": cut.lookahead, "hidden": cut.hidden}
        if cut.context is Context.window:
            return GuessingCritic(features, **shape, inputs=inputs, history=cut.history, match=cut.match)
        return SoftmaxCritic(features, **shape, match=cut.match)
    seen = {Context.none: (0, 1), Context.window: (inputs, cut.history), Context.lookahead: (symbols, cut.lookahead)}
    classes, length = seen[cut.context]
    return Regressor(features, hidden=_hidden(cut), classes=classes, lookahead=length)


def _auxiliary_head(config: Config, index: int, stage: Stage) -> DecoupledInterface:
    """A regressor of its own from the state alone, of the size and with the optimizer of the time cut's predictor."""
    cut = replace(config.predictor.time, scale=1.0)
    torch.manual_seed(_seed(config, 2 * config.stages + index))
    hidden = 0 if cut.kind is PredictorKind.linear else cut.hidden
    regressor = Regressor(_state_features(stage), hidden=hidden).to(stage.device)
    return _decoupled(regressor, cut, memory=1)


def _hidden(cut: CutPredictorConfig) -> int:
    return cut.hidden if cut.kind is PredictorKind.mlp else 0


def _state_features(stage: Stage) -> int:
    """F of the stage's packed state."""
    return sum(s.numel() for s in stage.module.initial_state(1))
