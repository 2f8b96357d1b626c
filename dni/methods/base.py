"""What every method in depth offers: a stage, and an interface that stands for the stages that follow."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from dni.errors import ConfigError
from dni.interfaces.base import Interface
from dni.methods.cut import CutContext
from dni.plugin import Named, RunContext
from dni.ranges import above_zero, one_or_more, zero_or_more
from dni.stages.base import Stage

InputKind = enum.Enum("InputKind", ["received", "synthetic"])


@dataclass
class DepthMethod(Named, ABC):
    """Base class of the methods in depth.

    A method of your own is a subclass and a dataclass, in a module of your own; its fields are the settings of
    the section `depth`, with those below. `interface` is all that it must have.
    """

    max_in_flight: int = one_or_more(4)  # [steps] W, most unfinished frames on an edge; delayed and lambda_return: on
    # all edges together, and steps a stage keeps
    lag: int | None = zero_or_more(None)  # [steps] train the predictor at step t on exactly the target of step t - lag;
    # null: on what came (delayed: go back at step t exactly through step t - lag per edge; local: a curriculum hears of
    # losses that late)
    inputs: InputKind = InputKind.received  # synthetic: later stages predict theirs from the data, and wait for nobody
    update_probability: float = above_zero(1.0)  # [probability] of a stage to update at a step; if not, it passes its
    # output on and no more
    clocks: list[int] = field(default_factory=list)  # [steps] each stage ticks at multiples of its own; empty: always

    #: Stages need no gradient of theirs at a step to go on, so that `update_probability` may leave steps out.
    skips_steps: ClassVar[bool] = False

    #: Gradients or their targets are steps late, so that `optimizer.staleness` has something to shorten.
    late: ClassVar[bool] = False

    #: One gradient is asked for at every step and used at that step, so that `clocks` may say at which.
    multi_rate: ClassVar[bool] = False

    #: Stages wait for no gradient, so that with `inputs` they may go ahead of the activations, too.
    synthetic_inputs: ClassVar[bool] = False

    #: The gradient at the cut is a model's, which a probe may compare with the exact one.
    predicts: ClassVar[bool] = False

    #: Class of torch.distributed.pipelining.schedules that runs the stages; None: the training loop of a worker does.
    schedule: ClassVar[str | None] = None

    @abstractmethod
    def interface(self, cut: CutContext) -> Interface:
        """What answers, for the stages that follow, with dL/d output of a stage that is not the last."""

    def stage(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, last: bool, **settings: Any) -> Stage:
        """A stage, the last one or an earlier one; `settings` are those of `Stage`."""
        return Stage(module, optimizer, **settings)

    def learner(self, cut: CutContext) -> nn.Module | None:
        """The module that learns at the cut, of which only names and shapes are asked; None: there is none."""
        return None

    def microbatches_of(self, stages: int) -> int:
        """Microbatches that a batch is split into."""
        return 1

    def parts(self, stages: int) -> int:
        """Parts that the model is cut into; part k is on stage k mod `stages`."""
        return stages

    def in_flight(self, stages: int) -> int:
        """The most unfinished frames on one edge, of `stages` stages."""
        return self.max_in_flight

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
        self._check_update_probability()
        if self.inputs is InputKind.synthetic and not self.synthetic_inputs:
            raise ConfigError(
                "depth.inputs=synthetic is for stages that do not wait for gradients either, and answers with "
                f"synthetic ones: use depth=synthetic, not depth={self.name} (or depth.inputs=received)"
            )

    def _check_update_probability(self) -> None:
        asked = f"depth.update_probability={self.update_probability}"
        if self.update_probability > 1:
            raise ConfigError(f"{asked} must be at most 1, with which every stage updates at every step")
        if self.update_probability != 1 and not self.skips_steps:
            raise ConfigError(
                f"{asked} leaves steps without a gradient, and depth={self.name} would wait for it: use "
                "depth=synthetic or depth=local (or depth.update_probability=1)"
            )
