"""The base class of the methods in time, and those that send no gradient from window to window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dni.errors import ConfigError
from dni.interfaces.base import Interface, ZeroInterface
from dni.methods.base import DepthMethod
from dni.methods.cut import TimeCutContext
from dni.plugin import Named, RunContext
from dni.recurrent import Chain
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap


@dataclass
class TimeMethod(Named, ABC):
    """Base class of the methods in time.

    Write a method of your own as a subclass that is a dataclass, in your own module. Its fields are the settings of
    the section `time`. Only `interface` is required.
    """

    #: A window is one whole sequence; False: it has `data.window` steps.
    whole_sequences: ClassVar[bool] = False

    #: Activations are recomputed in the backward pass, `data.window` steps at a time.
    recomputes: ClassVar[bool] = False

    #: The interface returns gradients; False: it returns None.
    answers: ClassVar[bool] = True

    #: It uses the predictor of `predictor.time`; False: the context of that predictor is not sent.
    predicts: ClassVar[bool] = False

    #: Windows may be missing: the window after them begins a sequence, whatever the data says.
    takes_gaps: ClassVar[bool] = False

    @abstractmethod
    def interface(self, cut: TimeCutContext) -> Interface:
        """Build the interface that returns dL/d state of a stage that carries state."""

    def targets(self, cut: TimeCutContext, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
        """Build what makes the targets of the interface `time` from the windows that the stage has run.

        `depth` is the interface at the stage's output.
        """
        return Bootstrap()

    def stage(
        self, depth: DepthMethod, module: nn.Module, optimizer: torch.optim.Optimizer, *, last: bool, **settings: Any
    ) -> Stage:
        """Build a stage, by default as the method in depth does; `settings` are further arguments of `Stage`."""
        return depth.stage(module, optimizer, last=last, **settings)

    def learners(self, cut: TimeCutContext) -> dict[str, nn.Module]:
        """Build the modules that learn at the cut, for their names and shapes alone; as `Interface.learners`."""
        return {}

    def check_module(self, module: Chain) -> None:
        """Raise UsageError for a stage's part of the model that cannot be trained with this method."""

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that cannot be trained with this method."""
        if self.answers and not run.model.carries_state:
            raise ConfigError(
                f"time={self.name} needs a recurrent model: model={run.model.name} carries no state; use model=lstm, "
                "say"
            )


@dataclass
class Truncated(TimeMethod):
    """Truncated backpropagation through time: no gradient flows back from one window to the previous one."""

    name: ClassVar[str] = "truncated"
    answers: ClassVar[bool] = False
    takes_gaps: ClassVar[bool] = True

    def interface(self, cut: TimeCutContext) -> Interface:
        return ZeroInterface()


@dataclass
class Full(TimeMethod):
    """Backpropagation through time: a window is one whole sequence."""

    name: ClassVar[str] = "full"
    whole_sequences: ClassVar[bool] = True
    answers: ClassVar[bool] = False
    takes_gaps: ClassVar[bool] = True

    def interface(self, cut: TimeCutContext) -> Interface:
        return ZeroInterface()


@dataclass
class Checkpointed(Full):
    """As `Full` with less memory: activations are recomputed (Chen et al. 2016)."""

    name: ClassVar[str] = "checkpointed"
    recomputes: ClassVar[bool] = True

    def check(self, run: RunContext) -> None:
        super().check(run)
        if run.evaluate.probe is not None:
            raise ConfigError(
                f"evaluate.probe={run.evaluate.probe} keeps all activations of a sequence, which time=checkpointed is "
                "there to avoid: set evaluate.probe=null (or time=full)"
            )
