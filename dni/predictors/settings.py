"""Base classes of the settings of predictors: dataclasses that a run names with `_target_` and that build the model."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dni.errors import ConfigError
from dni.plugin import Named, RunContext
from dni.predictors.base import Predictor
from dni.ranges import above_zero, one_or_more, zero_or_more

PredictorSchedule = enum.Enum("PredictorSchedule", ["constant", "stage"])


@dataclass(frozen=True)
class PredictorContext:
    """The place of a predictor in a run."""

    index: int  #: index of the stage whose value it sees, from 0
    stages: int  #: number of stages
    inputs: int  #: number of input symbols; 0 if inputs are not symbols
    numbers: bool = False  #: labels are float numbers (..., O), and `classes` is O
    block: Callable[[tuple[int, ...], int], nn.Module | None] = lambda shape, blocks: None  #: makes blocks of the model
    #: (`dni.models.Model.block`)
    copies: Callable[[int], Mapping[str, nn.Module]] = lambda layers: {}  #: gives copies of the model's last layers,
    #: and of so many layers after the cut (`dni.predictors.copied_layers`)


@dataclass
class PredictorSettings(Named, ABC):
    """Base class of the settings of predictors, with those of their training.

    To add a predictor, write a dataclass that subclasses `DepthPredictor` or `TimePredictor`, in a module of your own.
    Its fields, and those below, are the settings of the section `predictor.depth` or `predictor.time`. Only `build` is
    required.
    """

    learning_rate: float = zero_or_more(3e-3)  # [rate] of the predictor's own Adam
    steps_per_target: int = one_or_more(1)  # [steps] optimizer steps of the predictor per target
    warmup: int = zero_or_more(0)  # [targets] of the predictor before the stage's first update
    scale: float = zero_or_more(1.0)  # [factor] on the synthetic gradient that the network receives
    clip: float | None = above_zero(None)  # [norm] largest norm of the predictor's own gradient; null: no clipping
    schedule: PredictorSchedule = PredictorSchedule.constant  # schedule of the rate. constant: it stays; stage: it
    # is multiplied by the factor of optimizer.schedule at each step, as that of the stage

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        """Return the untrained model of dL/d value, with weights drawn from torch's random state.

        `shape` is that of one row of the value: (D,), or (C, H, W) for feature maps. `classes` is V, or O if labels are
        numbers.
        """

    def training(self) -> dict[str, Any]:
        """Return the training settings as arguments of `DecoupledInterface`."""
        return {
            "steps_per_target": self.steps_per_target,
            "warmup": self.warmup,
            "scale": self.scale,
            "clip": self.clip,
        }

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that this predictor cannot take."""


@dataclass
class DepthPredictor(PredictorSettings):
    """Base class of predictors of dL/d output.

    They see the output and its labels, (B, T) or (B,); for regression (B, T, O).
    """

    def head(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> nn.Module | None:
        """Return the model of the labels, from values to scores, that the predictor is made of; None: there is none.

        `depth=local` trains this head on its local loss.
        """
        return None


@dataclass
class TimePredictor(PredictorSettings):
    """Base class of predictors of dL/d state, packed as (B, F). By default they see the state alone.

    If one of the first two properties is above 0, the predictor also sees integers (B, L) or (B, H).
    """

    @property
    def context_labels(self) -> int:
        """L, the number of labels after the window that the predictor sees. A stream has no such labels."""
        return 0

    @property
    def context_inputs(self) -> int:
        """H, the number of inputs up to the end of the window that the predictor sees; IGNORED before the first."""
        return 0

    @property
    def awaited_labels(self) -> int:
        """L, the number of labels after the state that every target waits for. `fit` gets them after the context."""
        return 0

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that this predictor cannot take."""
        beside = self.context_labels or self.context_inputs or self.awaited_labels
        if run.time.predicts and run.data.numbers and beside:
            raise ConfigError(
                f"predictor.time={self.name} needs classes or symbols as context, and data={run.data.name} has "
                "numbers: use predictor/time=linear or predictor/time=mlp predictor.time.context=none"
            )


def refuse_decay(staleness_decay: float, *, eager_loss: bool) -> None:
    """Raise ConfigError for less weight on late targets of a predictor that learns from targets alone."""
    if staleness_decay and not eager_loss:
        raise ConfigError(
            f"predictor.depth.staleness_decay={staleness_decay} reduces the weight of late targets beside a loss that "
            "is learned at once: set predictor.depth.eager_loss=true (or predictor.depth.staleness_decay=0)"
        )
