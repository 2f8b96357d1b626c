"""A custom optimizer and a custom schedule of the learning rate: Lion, and a triangle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from dni.lr_schedule import LRSchedule
from dni.optimizers import Optimizer


class LionSteps(torch.optim.Optimizer):
    """Steps with the sign of a running mean of gradients (Chen et al. 2023)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, beta1: float, beta2: float) -> None:
        super().__init__(parameters, {"lr": lr, "beta1": beta1, "beta2": beta2})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    direction = group["beta1"] * mean + (1 - group["beta1"]) * parameter.grad
                    parameter -= group["lr"] * direction.sign()
                    mean.mul_(group["beta2"]).add_(parameter.grad, alpha=1 - group["beta2"])


@dataclass
class Lion(Optimizer):
    """Lion: every step changes each weight by the learning rate."""

    beta1: float = 0.9  # [share] of the running mean in the direction of a step
    beta2: float = 0.99  # [factor] decay of the running mean, per step

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return LionSteps(parameters, self.learning_rate, self.beta1, self.beta2)


@dataclass
class Triangle(LRSchedule):
    """A linear rise from a share of the rate to the full rate, then a linear fall to zero."""

    start: float = 0.5  # [share] of the full rate at the first step
    peak: int = 3  # [training steps] before the full rate

    def build(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        up = LinearLR(optimizer, self.start, 1.0, total_iters=self.peak)
        down = LinearLR(optimizer, 1.0, 0.0, total_iters=steps - self.peak)
        return SequentialLR(optimizer, [up, down], [self.peak])


@dataclass
class Half(Lion):
    """An optimizer that updates only the first parameter."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return super().build([*parameters][:1])


@dataclass
class Plateau(LRSchedule):
    """A schedule that needs a loss at every step, which stages do not pass."""

    def build(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
