"""A cut of the network, as a method sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from dni.interfaces.synthetic import DecoupledInterface
from dni.loss_function import LossFunction
from dni.predictors.base import Predictor
from dni.predictors.settings import PredictorContext, PredictorSettings, TimePredictor
from dni.recurrent import Chain

Kind = TypeVar("Kind", bound=DecoupledInterface)


@dataclass(frozen=True)
class CutContext:
    """The cut after a stage, for which a method makes an interface."""

    index: int  #: of the stage before the cut, from 0
    stages: int  #: of the run
    shape: tuple[int, ...]  #: of one row of the value that is cut: (D,), or (C, H, W) of feature maps
    classes: int  #: V, how many labels there are
    inputs: int  #: how many input symbols there are; 0 where the inputs are no symbols
    device: torch.device  #: of the stage
    predictor: PredictorSettings  #: the section `predictor.depth`, or `predictor.time`
    loss: LossFunction  #: of the network
    expects: Callable[[int], bool]  #: whether the target of a step will come at all

    def build(self) -> Predictor:
        """The predictor of the settings, untrained."""
        context = PredictorContext(self.index, self.stages, self.inputs, numbers=self.loss.numbers)
        return self.predictor.build(self.shape, self.classes, context).to(self.device)

    def predicted(self, memory: int, **settings: Any) -> DecoupledInterface:
        """An interface with that predictor and an Adam of its own, which remembers `memory` values.

        `settings` are further ones of `DecoupledInterface`.
        """
        return self.decoupled(DecoupledInterface, memory=memory, **settings)

    def decoupled(self, kind: type[Kind], predictor: Predictor | None = None, **settings: Any) -> Kind:
        """The same of another class, or with another predictor that is trained alike."""
        predictor = predictor or self.build()
        optimizer = torch.optim.Adam(predictor.parameters(), self.predictor.learning_rate, fused=True)
        own = {"expects": self.expects, **self.predictor.training(), **settings}
        return kind(predictor, optimizer, **own)


@dataclass(frozen=True)
class TimeCutContext(CutContext):
    """The cut after each window of a stage that carries state; its shape is (F,), of the packed state."""

    predictor: TimePredictor
    window: int  #: T, steps of a window
    module: Chain  #: the stage's part of the model
    rest: Callable[[], tuple[Tensor, Tensor]] | None  #: inputs and labels (B, N) from the window's end to that of its
    #: sequence; None: these are not known
