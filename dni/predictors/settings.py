"""The settings of a predictor: a dataclass that a run names by `_target_`, and that builds the model for a cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from dni.errors import ConfigError
from dni.plugin import Named, RunContext
from dni.predictors.base import Predictor
from dni.ranges import above_zero, one_or_more, zero_or_more


@dataclass(frozen=True)
class PredictorContext:
    """Where a predictor is used."""

    index: int  #: of the stage whose value it sees, from 0
    stages: int  #: of the run
    inputs: int  #: how many input symbols there are; 0 where the inputs are no symbols
    numbers: bool = False  #: labels are numbers (..., O) in floats, and `classes` is O


@dataclass
class PredictorSettings(Named, ABC):
    """Base class: how a predictor is trained, whatever it is.

    A predictor of your own has a subclass of `DepthPredictor` or `TimePredictor` that is a dataclass, in a module of
    your own; its fields are the settings of the section `predictor.depth` or `predictor.time`, with those below.
    `build` is all that it must have.
    """

    learning_rate: float = zero_or_more(3e-3)  # [rate] of the predictor's own Adam
    steps_per_target: int = one_or_more(1)  # [steps] of the predictor per target
    warmup: int = zero_or_more(0)  # [steps] of the predictor before the stage moves
    scale: float = zero_or_more(1.0)  # [factor] on the synthetic gradient that the network receives
    clip: float | None = above_zero(None)  # [norm] largest, of the predictor's own gradient; null: not clipped

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        """The model of dL/d value, untrained, its weights drawn from torch's random state.

        `shape` is that of one row of the value: (D,), or (C, H, W) of feature maps; `classes` is V, or O where labels
        are numbers.
        """

    def training(self) -> dict[str, Any]:
        """How it is trained: settings of `DecoupledInterface`."""
        return {
            "steps_per_target": self.steps_per_target,
            "warmup": self.warmup,
            "scale": self.scale,
            "clip": self.clip,
        }

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that this predictor does not go with."""


@dataclass
class DepthPredictor(PredictorSettings):
    """Base class of predictors of dL/d output; beside the output they see its labels, (B, T) or (B,); of regression
    (B, T, O)."""


@dataclass
class TimePredictor(PredictorSettings):
    """Base class of predictors of dL/d state, packed as (B, F); beside it they see nothing, if they do not say more.

    One of the first two properties may be above 0: the predictor then sees integers (B, L) or (B, H).
    """

    @property
    def context_labels(self) -> int:
        """L, labels after the window that it sees; a stream does not have them."""
        return 0

    @property
    def context_inputs(self) -> int:
        """H, inputs up to the end of the window that it sees; IGNORED where nothing was read yet."""
        return 0

    @property
    def awaited_labels(self) -> int:
        """L, labels after its state for which every target waits: in `fit` they stand behind what it saw."""
        return 0

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that this predictor does not go with."""
        beside = self.context_labels or self.context_inputs or self.awaited_labels
        if run.time.predicts and run.data.numbers and beside:
            raise ConfigError(
                f"predictor.time={self.name} sees classes or symbols beside the state, and data={run.data.name} has "
                "numbers: use predictor/time=linear or predictor/time=mlp predictor.time.context=none"
            )
