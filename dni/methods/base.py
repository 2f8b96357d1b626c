"""The base class of the methods in depth, which say how stages of a network are trained apart from each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dni.errors import ConfigError
from dni.interfaces.base import Interface
from dni.interfaces.input import InputInterface
from dni.methods.cut import CutContext, InputContext
from dni.plugin import Named, RunContext
from dni.ranges import one_or_more, zero_or_more
from dni.stages.base import Stage


@dataclass
class DepthMethod(Named, ABC):
    """Base class of the methods in depth.

    Write a method of your own as a subclass that is a dataclass, in your own module. Its fields are the settings of
    the section `depth`, with those below. Only `interface` is required.
    """

    max_in_flight: int = one_or_more(4)  # [steps] W, most unfinished frames on an edge; where stages keep windows, as
    # with delayed: on all edges together, and steps a stage keeps
    lag: int | None = zero_or_more(None)  # [steps] train the predictor at step t on exactly the target of step t - lag;
    # null: on targets that have arrived (delayed: go back at step t exactly through step t - lag per edge; local: a
    # curriculum receives losses that late)

    #: Gradients or their targets are steps late, so that `optimizer.staleness` has something to shorten.
    late: ClassVar[bool] = False

    #: The gradient at the cut is predicted by a model, so that a probe can compare it with the exact one.
    predicts: ClassVar[bool] = False

    #: A cut may have several named tensors, each with an interface of its own.
    named_tensors: ClassVar[bool] = True
    #: Every stage waits for the true gradient of every step before it updates.
    locked: ClassVar[bool] = False
    #: Stages may miss steps, and targets may be missing: a lost stage can start again while the others go on.
    takes_gaps: ClassVar[bool] = False
    #: Class of torch.distributed.pipelining.schedules that runs the stages; None: the training loop of a worker does.
    schedule: ClassVar[str | None] = None
    #: Stages predict their inputs (`input_interface`) and do not wait for the previous stage's forward pass.
    predicts_inputs: ClassVar[bool] = False

    @abstractmethod
    def interface(self, cut: CutContext) -> Interface:
        """Build the interface that returns dL/d output of a stage that is not the last."""

    def stage(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, last: bool, **settings: Any) -> Stage:
        """Build a stage; `last` is whether it is the last one, `settings` are further arguments of `Stage`."""
        return Stage(module, optimizer, **settings)

    def learners(self, cut: CutContext) -> dict[str, nn.Module]:
        """Build the modules that learn at the cut, for their names and shapes alone; as `Interface.learners`."""
        return {}

    def input_interface(self, cut: InputContext) -> InputInterface:
        """Build the interface that predicts the input of a stage, where `predicts_inputs`."""
        raise NotImplementedError

    def check_input(self, cut: InputContext) -> None:
        """Raise ConfigError if the input of this stage cannot be predicted, where `predicts_inputs`."""

    def microbatches_of(self, stages: int) -> int:
        """Microbatches that a batch is split into."""
        return 1

    def parts(self, stages: int) -> int:
        """Parts that the model is cut into; part k is on stage k mod `stages`."""
        return stages

    def in_flight(self, stages: int) -> int:
        """Return the most unfinished frames on one edge of a run with `stages` stages."""
        return self.max_in_flight

    @property
    def most_replies(self) -> int:
        """Most replies to one frame, on average over the frames in flight."""
        return 2

    def steps_ahead(self, stages: int) -> int:
        """Return by how many steps a later stage can be ahead of the first stage."""
        return 0

    @property
    def updates_every_step(self) -> bool:
        """Whether every stage goes back and updates at every step at which it works."""
        return True

    def updates(self, seed: int, stage: int, step: int) -> bool:
        """Return whether a stage goes back at a step. A pure function: every stage can call it for every other."""
        return True

    def update_period(self, stage: int) -> int:
        """Return the period of a stage in steps: it works at the multiples only. A multiple of the previous stage's."""
        return 1

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that cannot be trained with this method."""
        if self.lag is not None and self.lag >= self.max_in_flight:
            raise ConfigError(
                f"depth.lag={self.lag} does not fit depth.max_in_flight={self.max_in_flight}: the target of step t - "
                f"lag must still be in flight; set depth.max_in_flight={self.lag + 1} or more (or depth.lag=null)"
            )
        if run.optimizer.staleness and not self.late:
            raise ConfigError(
                f"optimizer.staleness={run.optimizer.staleness} shortens the steps of late gradients, and with "
                f"depth={self.name} none is late: set optimizer.staleness=0 (or depth=synthetic)"
            )
