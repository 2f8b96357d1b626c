"""Settings of the predictors at the cuts between stages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from dni.errors import ConfigError
from dni.plugin import RunContext
from dni.predictors.base import Predictor
from dni.predictors.convolutional import ConvRegressor, Flattened, PooledCritic
from dni.predictors.critic import SoftmaxCritic, SquaredCritic
from dni.predictors.regressor import Regressor
from dni.predictors.settings import DepthPredictor, PredictorContext, refuse_decay
from dni.ranges import one_or_more, zero_or_more


@dataclass
class Critic(DepthPredictor):
    """A small classifier; the gradient of its loss is the synthetic gradient (`SoftmaxCritic`, `PooledCritic`). If
    labels are numbers, a small regression (`SquaredCritic`)."""

    hidden: int = zero_or_more(0)  # [units] of the hidden layer (conv: channels); critic: 0 for a linear classifier
    gradient_weight: float = zero_or_more(1.0)  # [weight] of the squared distance to the target gradient
    eager_loss: bool = False  # learn the loss as soon as the value leaves; only the distance to the target gradient
    # waits for the target
    staleness_decay: float = zero_or_more(0.0)  # [exponent] a, with eager_loss: multiply the distance to a target that
    # is s steps late by (1 + s)^-a
    pool_grid: int = one_or_more(4)  # [cells] per side of a grid; of feature maps, the critic sees the mean of each
    # cell

    name: ClassVar[str] = "critic"

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        own: dict[str, Any] = {
            "hidden": self.hidden,
            "gradient_weight": self.gradient_weight,
            "eager_loss": self.eager_loss,
        }
        if context.numbers:
            made = SquaredCritic(math.prod(shape), classes, **own)
            return Flattened(made) if len(shape) > 1 else made
        if len(shape) > 1:
            return Flattened(PooledCritic(shape, pool_grid=self.pool_grid, classes=classes, **own))
        return SoftmaxCritic(shape[0], classes=classes, **own)

    def training(self) -> dict[str, Any]:
        return {**super().training(), "staleness_decay": self.staleness_decay}

    def check(self, run: RunContext) -> None:
        refuse_decay(self.staleness_decay, eager_loss=self.eager_loss)


@dataclass
class Linear(DepthPredictor):
    """A linear map from the value and its labels to the gradient (`Regressor`)."""

    labels: bool = True  # use labels as context

    name: ClassVar[str] = "linear"

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return _regressor(shape, 0, classes if self.labels else 0, context)


@dataclass
class Mlp(DepthPredictor):
    """A model with one hidden layer from the value and its labels to the gradient (`Regressor`)."""

    hidden: int = one_or_more(256)  # [units] of the hidden layer
    labels: bool = True  # use labels as context

    name: ClassVar[str] = "mlp"

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return _regressor(shape, self.hidden, classes if self.labels else 0, context)


@dataclass
class Conv(DepthPredictor):
    """A model with two hidden convolutions from feature maps and their labels to the gradient (`ConvRegressor`)."""

    hidden: int = one_or_more(32)  # [channels] of the hidden layers
    labels: bool = True  # use labels as context

    name: ClassVar[str] = "conv"

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return ConvRegressor(shape[0], hidden=self.hidden, classes=classes if self.labels else 0)

    def check(self, run: RunContext) -> None:
        if not run.model.feature_maps:
            raise ConfigError(
                f"predictor=conv needs feature maps, and model={run.model.name} has none between its layers: "
                "use predictor=critic, say (or model=cnn or model=resnet)"
            )


def _regressor(shape: tuple[int, ...], hidden: int, classes: int, context: PredictorContext) -> Predictor:
    seen = {"outputs" if context.numbers else "classes": classes}
    regressor = Regressor(math.prod(shape), hidden=hidden, **seen)
    return Flattened(regressor) if len(shape) > 1 else regressor
