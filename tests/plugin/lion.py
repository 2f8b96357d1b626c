"""An optimizer and a schedule of the learning rate of a user's own: Lion, and torch's lines up and down."""

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
    """The sign of a mean of gradients (Chen et al. 2023)."""

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
    """Lion: every weight moves by the learning rate."""

    beta1: float = 0.9  # [share] of the mean in the direction of a step
    beta2: float = 0.99  # [share] of the mean that stays at a step

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return LionSteps(parameters, self.learning_rate, self.beta1, self.beta2)


@dataclass
class Triangle(LRSchedule):
    """From a share of the rate to all of it, and back to none at the end."""

    start: float = 0.5  # [share] of the rate at the first step
    peak: int = 3  # [training steps] before the full rate

    def build(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        up = LinearLR(optimizer, self.start, 1.0, total_iters=self.peak)
        down = LinearLR(optimizer, 1.0, 0.0, total_iters=steps - self.peak)
        return SequentialLR(optimizer, [up, down], [self.peak])


@dataclass
class Half(Lion):
    """It leaves all parameters out but the first."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return super().build([*parameters][:1])


@dataclass
class Plateau(LRSchedule):
    """It wants to be told a loss at every step, which no stage does."""

    def build(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
