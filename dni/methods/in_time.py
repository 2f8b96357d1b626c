"""What every method in time offers: windows of some length, and an interface that stands for the windows to come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dni.errors import ConfigError
from dni.interfaces.base import Interface, ZeroInterface
from dni.methods.cut import TimeCutContext
from dni.plugin import Named, RunContext
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap


@dataclass
class TimeMethod(Named, ABC):
    """Base class of the methods in time.

    A method of your own is a subclass and a dataclass, in a module of your own; its fields are the settings of the
    section `time`. `interface` is all that it must have.
    """

    #: A window is one whole sequence; False: it has `data.window` steps.
    whole_sequences: ClassVar[bool] = False

    #: Activations are kept for `data.window` steps at a time, and computed again in the backward pass.
    recomputes: ClassVar[bool] = False

    #: The interface has gradients to answer with; False: it answers with none.
    answers: ClassVar[bool] = True

    #: It has a predictor, that of `predictor.time`; False: nothing of what such a predictor sees needs to travel.
    predicts: ClassVar[bool] = False

    @abstractmethod
    def interface(self, cut: TimeCutContext) -> Interface:
        """What answers, for the windows to come, with dL/d state of a stage that carries state."""

    def targets(self, cut: TimeCutContext, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
        """What makes the targets of `time`, the interface, from windows that the stage has run.

        `depth` is the interface at the stage's output.
        """
        return Bootstrap()

    def learners(self, cut: TimeCutContext) -> dict[str, nn.Module]:
        """Build the modules that learn at the cut, for their names and shapes alone; as `Interface.learners`."""
        return {}

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that cannot be trained with this method."""
        if self.answers and not run.model.carries_state:
            raise ConfigError(
                f"time={self.name} needs a recurrent model: model={run.model.name} carries no state; use model=lstm, "
                "say"
            )


@dataclass
class Truncated(TimeMethod):
    """Truncated backpropagation through time: no gradient goes from one window back to the one before."""

    name: ClassVar[str] = "truncated"
    answers: ClassVar[bool] = False

    def interface(self, cut: TimeCutContext) -> Interface:
        return ZeroInterface()


@dataclass
class Full(TimeMethod):
    """Backpropagation through time: a window is one whole sequence."""

    name: ClassVar[str] = "full"
    whole_sequences: ClassVar[bool] = True
    answers: ClassVar[bool] = False

    def interface(self, cut: TimeCutContext) -> Interface:
        return ZeroInterface()


@dataclass
class Checkpointed(Full):
    """The same with less memory: activations are computed again (Chen et al. 2016)."""

    name: ClassVar[str] = "checkpointed"
    recomputes: ClassVar[bool] = True

    def check(self, run: RunContext) -> None:
        super().check(run)
        if run.evaluate.probe is not None:
            raise ConfigError(
                f"evaluate.probe={run.evaluate.probe} keeps all activations of a sequence, which time=checkpointed is "
                "there to avoid: set evaluate.probe=null (or time=full)"
            )
