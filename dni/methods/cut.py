"""Contexts: what a method knows of a cut when it builds an interface for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dni.interfaces.synthetic import DecoupledInterface
from dni.loss_function import LossFunction
from dni.lr_schedule import follow
from dni.predictors.base import Predictor
from dni.predictors.regressor import Regressor
from dni.predictors.settings import (
    DepthPredictor,
    PredictorContext,
    PredictorSchedule,
    PredictorSettings,
    TimePredictor,
)
from dni.recurrent import Chain
from dni.stages.autocast import autocast_calls

Kind = TypeVar("Kind", bound=DecoupledInterface)


@dataclass(frozen=True)
class CutContext:
    """The cut after a stage."""

    index: int  #: of the stage before the cut, from 0
    stages: int  #: K, stages of the run
    shape: tuple[int, ...]  #: of one row of the value: (D,), or (C, H, W) of feature maps
    classes: int  #: V, number of labels
    inputs: int  #: number of input symbols; 0 if the inputs are no symbols
    device: torch.device  #: of the stage
    predictor: PredictorSettings  #: the section `predictor.depth`, or `predictor.time`
    loss: LossFunction  #: of the network
    expects: Callable[[int], bool]  #: whether a target will come for a step
    learning_rate: float  #: of the stage's optimizer
    local_classes: int  #: classes of the labels of the first stage's own task (`Window.local_labels`); 0: none
    autocast: torch.dtype | None = field(default=None, kw_only=True)  #: what predictors compute in; None: 32 bits
    rows: bool = field(default=True, kw_only=True)  #: the value has a row for every label; if not, it is (B, ..., D),
    #: and its predictor sees no labels
    block: Callable[[tuple[int, ...], int], nn.Module | None] = field(default=lambda shape, blocks: None, kw_only=True)
    #: makes blocks like the model's (`dni.models.Model.block`)
    copies: Callable[[int], Mapping[str, nn.Module]] = field(default=lambda layers: {}, kw_only=True)  #: gives copies
    #: of later layers (`PredictorContext.copies`)
    rate_factor: Callable[[], float] = field(default=lambda: 1.0, kw_only=True)  #: returns the factor of the stage's
    #: schedule of the learning rate at this step
    base_seed: int  #: torch is seeded with base_seed + 0 to 3K - 1 before the interfaces of the run are built

    @property
    def _place(self) -> PredictorContext:
        numbers = self.loss.numbers
        return PredictorContext(self.index, self.stages, self.inputs, numbers, block=self.block, copies=self.copies)

    def head(self) -> nn.Module | None:
        """Build the head of the settings' predictor, untrained; None: it has none."""
        if not isinstance(self.predictor, DepthPredictor):
            return None
        found = self.predictor.head(self.shape, self.classes, self._place)
        return None if found is None else found.to(self.device)

    def build(self) -> Predictor:
        """Build the predictor of the settings, untrained; for a value without labels, a regressor."""
        if not self.rows:
            hidden = getattr(self.predictor, "hidden", 0)
            return self.cast(Regressor(self.shape[-1], hidden=hidden).to(self.device))
        return self.cast(self.predictor.build(self.shape, self.classes, self._place).to(self.device))

    def cast(self, predictor: Predictor) -> Predictor:
        """Let a predictor compute in the precision of the run."""
        autocast_calls(predictor, self.autocast, "forward", "fit", "known", "learn")
        return predictor

    def predicted(self, memory: int, **settings: Any) -> DecoupledInterface:
        """Build an interface with that predictor and its own Adam. It remembers `memory` values.

        `settings` are further arguments of `DecoupledInterface`.
        """
        return self.decoupled(DecoupledInterface, memory=memory, **settings)

    def decoupled(self, kind: type[Kind], predictor: Predictor | None = None, **settings: Any) -> Kind:
        """Build an interface of the class `kind`, with that predictor or another one that is trained alike."""
        predictor = predictor or self.build()
        optimizer = torch.optim.Adam(predictor.parameters(), self.predictor.learning_rate, fused=True)
        self.scheduled(optimizer)
        own = {"expects": self.expects, **self.predictor.training(), **settings}
        return kind(predictor, optimizer, **own)

    def scheduled(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer of a model that learns at this cut follow the schedule of the predictor's settings."""
        if self.predictor.schedule is PredictorSchedule.stage:
            follow(optimizer, self.rate_factor)


@dataclass(frozen=True)
class TimeCutContext(CutContext):
    """The cut after each window of a stage that carries state; its shape is (F,), of the packed state."""

    predictor: TimePredictor
    window: int  #: T, steps of a window
    module: Chain  #: the stage's part of the model
    rest: Callable[[], tuple[Tensor, Tensor]] | None  #: returns inputs and labels (B, N) from the end of the window to
    #: the end of its sequence; None: they are not known


@dataclass(frozen=True)
class InputContext:
    """The cut before a stage that predicts its input."""

    index: int  #: of the stage, 1 or more
    shape: tuple[int, ...]  #: of one row of the input: (D,), or (C, H, W) of feature maps
    data_shape: tuple[int, ...] | None  #: of one row of the data; None: the data are symbols
    symbols: int  #: number of input symbols; 0 if the data are no symbols
    carries_state: bool  #: whether a stage before this one carries state
    device: torch.device  #: of the stage
