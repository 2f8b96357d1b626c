"""Schedules of the learning rate: those of the package, and the base class for your own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from dni.errors import ConfigError
from dni.plugin import Named, RunContext
from dni.ranges import below_one, one_or_more, zero_or_more


@dataclass
class LRSchedule(Named, ABC):
    """Base class of the schedules.

    To add a schedule, write a dataclass that subclasses this class, in a module of your own. Its fields, and those
    below, are the settings of the section `optimizer.schedule`. Only `build` is required.
    """

    decay_steps: int | None = one_or_more(None)  # [training steps] length of the schedule, warm-up included; step:
    # between two falls of the rate; null: the length of the run, which is recorded and kept when the run is resumed

    #: The rates depend on the length of the schedule, so that `decay_steps` is filled in and kept by resumed runs.
    ends: ClassVar[bool] = True

    @abstractmethod
    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """Return a torch scheduler that ends after `steps` training steps; None: the rate is constant.

        It is stepped once per training step, without arguments. A resumed run builds it anew and repeats these steps.
        """

    def check(self, run: RunContext) -> None:
        """Raise ConfigError for settings of the run that this schedule cannot take."""
        if self.ends and self.decay_steps is None and run.open_ended:
            raise ConfigError(
                f"optimizer/schedule={self.name} does not know how many steps max_timesteps={run.max_timesteps} "
                "takes, because the sequences grow: set optimizer.schedule.decay_steps"
            )


def start_schedule(schedule: LRSchedule, optimizer: Optimizer, steps: int) -> LRScheduler | None:
    """Build the scheduler of a new optimizer, and take one optimizer step without gradients, which changes nothing.

    That step avoids torch's warning about a scheduler that steps before its optimizer, as it does here during warm-up,
    with `accumulate`, or while gradients are late.
    """
    scheduler = schedule.build(optimizer, steps)
    if scheduler is not None:
        optimizer.step()
    return scheduler


def resume_schedule(schedule: LRSchedule, optimizer: Optimizer, steps: int, done: int) -> LRScheduler | None:
    """Build the scheduler as it is after `done` training steps, for an optimizer with its state loaded."""
    for group in optimizer.param_groups:
        group["lr"] = group.pop("initial_lr", group["lr"])
    scheduler = schedule.build(optimizer, steps)
    if scheduler is not None:
        for _ in range(done):
            scheduler.step()
    return scheduler


def rate_factor(optimizer: Optimizer) -> float:
    """Return the factor of an optimizer's schedule at this step: its rate over the initial one; 1 without schedule."""
    return next((float(g["lr"] / g["initial_lr"]) for g in optimizer.param_groups if g.get("initial_lr")), 1.0)


def follow(optimizer: Optimizer, factor: Callable[[], float]) -> None:
    """Let each step of an optimizer use `factor()` times the rates that it has now."""
    rates = [group["lr"] for group in optimizer.param_groups]

    def set_rates(*step: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor()

    optimizer.register_step_pre_hook(set_rates)


def rate_after(schedule: LRSchedule, optimizer: Optimizer, steps: int, done: int) -> float:
    """Return the learning rate after `done` training steps. Uses up the optimizer, which must be new."""
    start_schedule(schedule, optimizer, steps)
    resume_schedule(schedule, optimizer, steps, done)
    return float(optimizer.param_groups[0]["lr"])


@dataclass
class FactorSchedule(LRSchedule):
    """Base class of schedules that multiply the rate by a function of the step, after a linear warm-up.

    After n = 0, 1, ... training steps, the factor is

        (n + 1) / warmup_steps                     while n < warmup_steps (Goyal et al. 2017)
        factor(n - warmup_steps, steps)            from then on

    The first step after the warm-up has the full rate.
    """

    warmup_steps: int = zero_or_more(0)  # [training steps] of linear rise of the rate, before the schedule

    @abstractmethod
    def factor(self, m: int, steps: int) -> float:
        """Return the share of the full rate m = 0, 1, ... training steps after the warm-up; `steps` as in `build`."""

    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        return LambdaLR(optimizer, partial(self._factor, steps))

    def _factor(self, steps: int, n: int) -> float:
        m = n - self.warmup_steps
        return (n + 1) / self.warmup_steps if m < 0 else self.factor(m, steps)


@dataclass
class Constant(FactorSchedule):
    """A constant rate, after the warm-up if there is one."""

    name: ClassVar[str] = "constant"
    ends: ClassVar[bool] = False

    def factor(self, m: int, steps: int) -> float:
        return 1.0

    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        return super().build(optimizer, steps) if self.warmup_steps else None


@dataclass
class Annealing(FactorSchedule):
    """Base class of schedules that lower the rate from 1 to `final` of it, and then keep it there:

    final + (1 - final) left(p),   p = min(1, m / (steps - warmup_steps))
    """

    final: float = below_one(0.0)  # [share] of the full rate at the end (cosine, linear), or left by each fall (step)

    @abstractmethod
    def left(self, p: float) -> float:
        """Return the share of the decay still to come, from 1 at p = 0 to 0 at p = 1."""

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
    """Multiply the rate by `final` every `decay_steps` steps after the warm-up: final ^ floor(m / decay_steps)."""

    final: float = below_one(0.0)  # [share] of the rate left by each fall

    name: ClassVar[str] = "step"
    ends: ClassVar[bool] = False

    def factor(self, m: int, steps: int) -> float:
        return float(self.final ** (m // steps))

    def check(self, run: RunContext) -> None:
        super().check(run)
        asked = f"optimizer/schedule={self.name}"
        if self.decay_steps is None:
            raise ConfigError(
                f"{asked} needs decay_steps: set optimizer.schedule.decay_steps={max(1, run.planned_steps // 3)}, say"
            )
        if not self.final:
            raise ConfigError(
                f"{asked} with optimizer.schedule.final=0 stops at the first fall: set optimizer.schedule.final=0.1, "
                "say"
            )
