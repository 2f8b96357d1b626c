"""How the learning rate goes over the steps of a run: schedules of the package, and the base class of your own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from dni.errors import ConfigError
from dni.plugin import Named, RunContext
from dni.ranges import below_one, one_or_more, zero_or_more


@dataclass
class LRSchedule(Named, ABC):
    """Base class of the schedules.

    A schedule of your own is a subclass and a dataclass, in a module of your own; its fields are the settings of the
    section `optimizer.schedule`, with those below. `build` is all that it must have.
    """

    decay_steps: int | None = one_or_more(None)  # [training steps] after which the schedule ends, its warm-up among
    # them; step: between two falls; null: as many as the run will take, filled in, so that it goes on as it began

    #: Its rates depend on when it ends: a run that goes on for other steps must be told where. Otherwise `decay_steps`
    #: is not filled in.
    ends: ClassVar[bool] = True

    @abstractmethod
    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """A scheduler of torch that ends after `steps` training steps; None: the rate stays as it is.

        It is stepped once per training step, without arguments. A run that is resumed builds it anew and steps it to
        where it was.
        """

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that do not go with this schedule."""
        if self.ends and self.decay_steps is None and run.open_ended:
            raise ConfigError(
                f"optimizer/schedule={self.name} does not know how many steps max_timesteps={run.max_timesteps} "
                "will be, for the sequences grow: set optimizer.schedule.decay_steps"
            )


def start_schedule(schedule: LRSchedule, optimizer: Optimizer, steps: int) -> LRScheduler | None:
    """The scheduler of a new optimizer, whose one step here, without gradients, moves nothing.

    torch warns if the optimizer has not stepped when the scheduler does, which happens to windows that may not move,
    wait for others or for their gradient.
    """
    scheduler = schedule.build(optimizer, steps)
    if scheduler is not None:
        optimizer.step()
    return scheduler


def resume_schedule(schedule: LRSchedule, optimizer: Optimizer, steps: int, done: int) -> LRScheduler | None:
    """The scheduler after `done` training steps, of an optimizer that was started and whose state is loaded."""
    for group in optimizer.param_groups:
        group["lr"] = group.pop("initial_lr", group["lr"])
    scheduler = schedule.build(optimizer, steps)
    if scheduler is not None:
        for _ in range(done):
            scheduler.step()
    return scheduler


def rate_after(schedule: LRSchedule, optimizer: Optimizer, steps: int, done: int) -> float:
    """The learning rate after `done` training steps, of a new optimizer, which then is of no more use."""
    start_schedule(schedule, optimizer, steps)
    resume_schedule(schedule, optimizer, steps, done)
    return float(optimizer.param_groups[0]["lr"])


@dataclass
class FactorSchedule(LRSchedule):
    """Base class of the schedules that multiply the rate by a function of the step, after a linear warm-up.

    The factor after n = 0, 1, ... training steps:

        (n + 1) / warmup_steps                     while n < warmup_steps (Goyal et al. 2017)
        factor(n - warmup_steps, steps)            from then on

    So the first step after the warm-up has the full rate.
    """

    warmup_steps: int = zero_or_more(0)  # [training steps] over which the rate rises linearly, before the schedule

    @abstractmethod
    def factor(self, m: int, steps: int) -> float:
        """The share of the full rate at m = 0, 1, ... training steps after the warm-up; `steps` as in `build`."""

    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        return LambdaLR(optimizer, partial(self._factor, steps))

    def _factor(self, steps: int, n: int) -> float:
        m = n - self.warmup_steps
        return (n + 1) / self.warmup_steps if m < 0 else self.factor(m, steps)


@dataclass
class Constant(FactorSchedule):
    """The full rate, after the warm-up if there is one."""

    name: ClassVar[str] = "constant"
    ends: ClassVar[bool] = False

    def factor(self, m: int, steps: int) -> float:
        return 1.0

    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        return super().build(optimizer, steps) if self.warmup_steps else None


@dataclass
class Annealing(FactorSchedule):
    """Base class of the schedules that go from the full rate to `final` of it, and stay there:

    final + (1 - final) left(p),   p = min(1, m / (steps - warmup_steps))
    """

    final: float = below_one(0.0)  # [share] of the rate; cosine, linear: at the end; step: that each fall leaves

    @abstractmethod
    def left(self, p: float) -> float:
        """What is left of the way down, from 1 at p = 0 to 0 at p = 1."""

    def factor(self, m: int, steps: int) -> float:
        p = min(1.0, m / (steps - self.warmup_steps))
        return self.final + (1 - self.final) * self.left(p)

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.warmup_steps >= run.decay_steps:
            raise ConfigError(
                f"optimizer.schedule.warmup_steps={self.warmup_steps} leaves none of the {run.decay_steps} steps of "
                f"optimizer/schedule={self.name}: set optimizer.schedule.warmup_steps={run.decay_steps // 10}, say"
            )


@dataclass
class Cosine(Annealing):
    """left(p) = (1 + cos(pi p)) / 2 (Loshchilov & Hutter 2017)."""

    name: ClassVar[str] = "cosine"

    def left(self, p: float) -> float:
        return (1 + math.cos(math.pi * p)) / 2


@dataclass
class Linear(Annealing):
    """left(p) = 1 - p."""

    name: ClassVar[str] = "linear"

    def left(self, p: float) -> float:
        return 1 - p


@dataclass
class Step(FactorSchedule):
    """final ^ floor(m / decay_steps): the rate falls every `decay_steps` training steps after the warm-up."""

    final: float = below_one(0.0)  # [share] of the rate that each fall leaves

    name: ClassVar[str] = "step"
    ends: ClassVar[bool] = False

    def factor(self, m: int, steps: int) -> float:
        return float(self.final ** (m // steps))

    def check(self, run: RunContext) -> None:
        super().check(run)
        asked = f"optimizer/schedule={self.name}"
        if self.decay_steps is None:
            raise ConfigError(
                f"{asked} needs to know when: set optimizer.schedule.decay_steps={max(1, run.planned_steps // 3)}, say"
            )
        if not self.final:
            raise ConfigError(
                f"{asked} with optimizer.schedule.final=0 stops at the first fall: set optimizer.schedule.final=0.1, "
                "say"
            )
