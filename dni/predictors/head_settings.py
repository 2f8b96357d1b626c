"""Settings of heads: models of the labels at a cut, for critics and local losses alike."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from dni.loss_function import SquaredError
from dni.plugin import RunContext
from dni.predictors.base import Predictor
from dni.predictors.copied_layers import CopiedLayers
from dni.predictors.head_critic import HeadCritic
from dni.predictors.heads import norm_head
from dni.predictors.settings import DepthPredictor, PredictorContext, refuse_decay
from dni.ranges import below_one, one_or_more, zero_or_more


@dataclass
class HeadSettings(DepthPredictor):
    """Base class of heads: `build` makes a `HeadCritic` of the head; `depth=local` trains the head itself."""

    gradient_weight: float = zero_or_more(0.0)  # [weight] of the squared distance to the target gradient
    eager_loss: bool = True  # learn the loss as soon as the value leaves; only the distance to the target gradient
    # waits for the target
    staleness_decay: float = zero_or_more(0.0)  # [exponent] a, with eager_loss: multiply the distance to a target that
    # is s steps late by (1 + s)^-a
    reconstruction: float = zero_or_more(0.0)  # [weight] of the error of a linear reconstruction of the stage's input,
    # which is added to the loss of its output; 0: none

    @abstractmethod
    def head(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> nn.Module: ...

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return HeadCritic(
            self.head(shape, classes, context),
            features=shape[0],
            classes=0 if context.numbers else classes,
            gradient_weight=self.gradient_weight,
            eager_loss=self.eager_loss,
            function=SquaredError() if context.numbers else None,
        )

    def training(self) -> dict[str, Any]:
        return {**super().training(), "staleness_decay": self.staleness_decay}

    def check(self, run: RunContext) -> None:
        refuse_decay(self.staleness_decay, eager_loss=self.eager_loss)


@dataclass
class OwnLayers(HeadSettings):
    """Base class of heads that train layers of their own."""

    hidden: int = zero_or_more(0)  # [units] of the hidden layer; norm_head: 0 for none; block_head has one only
    # where the model has no blocks: 0 for twice the value's size
    pool_grid: int = one_or_more(4)  # [cells] per side of a grid; of feature maps, the last layers see cells' means


@dataclass
class NormHead(OwnLayers):
    """A layer norm and a linear layer, with a hidden layer between the two if `hidden` is above 0."""

    name: ClassVar[str] = "norm_head"

    def head(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> nn.Module:
        return norm_head(shape, classes, hidden=self.hidden, pool_grid=self.pool_grid)


@dataclass
class BlockHead(OwnLayers):
    """Blocks of the model's own kind, a layer norm and a linear layer (`dni.models.Model.block`).

    Transformers have blocks with attention within the window, models of feature maps have convolutions. For other
    models a block is a copy of the layer nearest to the cut that maps a value to one of the same shape, such as a
    recurrent layer or a block of a model of your own; without any (mlp), it is a hidden layer of `hidden` units.
    """

    blocks: int = one_or_more(1)  # [blocks] below the norm

    name: ClassVar[str] = "block_head"

    def head(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> nn.Module:
        block = context.block(shape, self.blocks)
        if block is None:
            return norm_head(shape, classes, hidden=self.hidden or 2 * shape[0], pool_grid=self.pool_grid)
        return nn.Sequential(block, *norm_head(shape, classes, pool_grid=self.pool_grid))


@dataclass
class CopiedHead(HeadSettings):
    """Copies of the model's last layers, and of those after the cut, as moving averages (Su et al. 2025, MAN++).

    The last layers are the last one with weights, with the norms and the layers without weights before it. Their
    weights are sent upstream with replies. The head itself trains a scale and a bias of the value
    (`dni.predictors.copied_layers`).
    """

    layers: int = zero_or_more(0)  # [layers] of the model that follow the cut, copied as well
    copy_every: int = one_or_more(10)  # [steps] between two copies that a stage sends of its weights
    momentum: float = below_one(0.0)  # [factor] of the old weights in the average with a new copy; 0: the newest copy

    name: ClassVar[str] = "copied_head"

    def head(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> nn.Module:
        return CopiedLayers(context.copies(self.layers), shape)
