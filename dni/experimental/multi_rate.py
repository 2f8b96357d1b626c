"""Stages that work at different rates, and a first stage that may have a task of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.experimental.local_objective import LocalObjective
from dni.interfaces.base import Interface
from dni.interfaces.wrapper import InterfaceWrapper
from dni.methods.backprop import Backprop
from dni.methods.base import DepthMethod
from dni.methods.cut import CutContext
from dni.methods.synthetic import Synthetic
from dni.misuse import refuse_below
from dni.plugin import RunContext


class MultiRateInterface(InterfaceWrapper):
    """An interface to a next stage that works only at steps that are multiples of `every`.

    Nothing is sent to that stage at other steps. The gradient is then zero, and nothing is remembered or awaited.

    Args:
        inner: returns the gradients at the multiples.
        every: the update period of the next stage in steps, 1 or more.
    """

    def __init__(self, inner: Interface, every: int) -> None:
        super().__init__(inner)
        refuse_below(1, every=every)
        self.every = every

    def required_step(self, step: int) -> int | None:
        return None if step % self.every else self.inner.required_step(step)

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        return None if step % self.every else self.inner.gradient(step, value, labels, done)


@dataclass
class MultiRateStages(DepthMethod):
    """Base class: stages with an update period each."""

    update_periods: list[int] = field(default_factory=list)  # [steps] each stage works at multiples of its own; empty:
    # at every step

    def update_period(self, stage: int) -> int:
        return self.update_periods[stage] if self.update_periods else 1

    def adapted(self, interface: Interface, cut: CutContext) -> Interface:
        """Wrap the interface of a cut for a slower next stage, and for the first stage's own task."""
        if self.update_period(cut.index) < self.update_period(cut.index + 1):
            interface = MultiRateInterface(interface, self.update_period(cut.index + 1))
        if cut.index == 0 and cut.local_classes:
            torch.manual_seed(cut.base_seed + 3 * cut.stages)
            interface = LocalObjective(
                interface,
                cut.shape[-1],
                classes=cut.local_classes,
                learning_rate=cut.learning_rate,
                device=cut.device,
            )
        return interface

    def learners(self, cut: CutContext) -> dict[str, nn.Module]:
        inner = super().learners(cut)
        if cut.index or not cut.local_classes:
            return inner
        head = nn.Linear(cut.shape[-1], cut.local_classes)
        return {"head": head, **{f"inner.{place}": module for place, module in inner.items()}}

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.update_periods:
            self._check_periods(run)
        if not (self.update_periods or run.data.local_classes):
            return
        if run.optimizer.staleness:
            raise ConfigError(
                f"optimizer.staleness={run.optimizer.staleness} needs stages that all work at every step, for one "
                f"task: set optimizer.staleness=0 (or use depth=synthetic)"
            )
        if run.evaluate.probe is not None:
            raise ConfigError(
                f"evaluate.probe={run.evaluate.probe} takes a whole sequence through all stages at one rate: set "
                "evaluate.probe=null"
            )

    def _check_periods(self, run: RunContext) -> None:
        periods = self.update_periods
        asked = f"depth.update_periods=[{','.join(map(str, periods))}]"
        if len(periods) != run.stages:
            raise ConfigError(
                f"{asked} names {len(periods)} periods for {run.stages} stages: name one for each, or set "
                "depth.update_periods=[]"
            )
        if periods[0] != 1 or any(later < 1 or later % before for before, later in pairwise(periods)):
            raise ConfigError(
                f"{asked} must begin with 1, and each period must be a multiple of the previous one: set "
                f"depth.update_periods=[{','.join(str(2**k) for k in range(run.stages))}], say"
            )
        if run.future_labels or run.history:
            raise ConfigError(
                f"{asked}: the labels or inputs that a predictor in time sees beside a window are not those of a "
                "slower stage's next window: set predictor=mlp predictor.time.context=none (or time=truncated)"
            )


@dataclass
class MultiRate(MultiRateStages, Synthetic):
    """Synthetic gradients between stages of different rates."""

    name: ClassVar[str] = "multi_rate"

    def interface(self, cut: CutContext) -> Interface:
        return self.adapted(Synthetic.interface(self, cut), cut)


@dataclass
class MultiRateBackprop(MultiRateStages, Backprop):
    """Backpropagation between stages of different rates: a stage waits where the next one works, too."""

    name: ClassVar[str] = "multi_rate_backprop"

    def interface(self, cut: CutContext) -> Interface:
        return self.adapted(Backprop.interface(self, cut), cut)
