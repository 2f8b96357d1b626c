"""How the learning rate goes over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_LEFT: dict[str, Callable[[float], float]] = {
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
    "linear": lambda p: 1 - p,
}


@dataclass(frozen=True)
class Course:
    """The share of the full rate after n = 0, 1, ... steps, m = n - `warmup`:

        (n + 1) / warmup                           while n < warmup, for every kind (Goyal et al. 2017)
        1                                          constant
        final + (1 - final) (1 + cos(pi p)) / 2    cosine, p = min(1, m / (steps - warmup)) (Loshchilov & Hutter 2017)
        1 - (1 - final) p                          linear
        final ^ floor(m / steps)                   step

    So the first step after the warm-up has the full rate, and `final` is reached when `steps` are done.
    """

    kind: str
    warmup: int = 0
    steps: int = 1
    final: float = 0.0

    def __call__(self, n: int) -> float:
        m = n - self.warmup
        if m < 0:
            return (n + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        if self.kind == "step":
            return float(self.final ** (m // self.steps))
        p = min(1.0, m / (self.steps - self.warmup))
        return self.final + (1 - self.final) * _LEFT[self.kind](p)


def schedule(optimizer: Optimizer, course: Course) -> LambdaLR:
    """torch's scheduler, to be stepped once per training step, whether the optimizer moved or not.

    The optimizer must be new: without gradients, its one step here moves nothing. torch warns if the optimizer has not
    stepped when the scheduler does, which happens to windows that may not move, wait for others or for their gradient.
    """
    scheduler = LambdaLR(optimizer, course)
    optimizer.step()
    return scheduler


def set_course(scheduler: LambdaLR, course: Course) -> None:
    """Have a scheduler go on by `course` from the step that it has come to; nothing changes where it is its own."""
    if all(each == course for each in scheduler.lr_lambdas):
        return
    scheduler.lr_lambdas = [course for _ in scheduler.lr_lambdas]
    for group, full in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = full * course(scheduler.last_epoch)
