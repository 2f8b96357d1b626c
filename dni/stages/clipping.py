"""The norm that gradients are clipped by, and the optimizer step that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from dni.errors import DivergedError


class Clipping:
    """Clips the gradients of one optimizer step by their norm.

    This class takes the norm of the stage's own gradients. A subclass may take that of all stages, and may learn it
    later: `clip` then returns None, and `Stage.finish_step` follows.

    Args:
        largest: the largest norm; None does not clip.
    """

    def __init__(self, largest: float | None) -> None:
        self.largest = math.inf if largest is None else largest

    def clip(self, parameters: Sequence[nn.Parameter]) -> float | None:
        """Scale the gradients down to the largest norm. Return their norm before; None: it is not known yet.

        Raises DivergedError for a norm that is not finite.
        """
        return finite(nn.utils.clip_grad_norm_(parameters, self.largest).item())


def finite(norm: float) -> float:
    """Return the norm. Raises DivergedError unless it is finite."""
    if not math.isfinite(norm):
        raise DivergedError(f"the gradient norm is {norm}: lower the learning rates, or clip gradients")
    return norm


def rates_of(optimizer: torch.optim.Optimizer, factor: float) -> list[float]:
    """Return `factor` times the learning rates of the optimizer's groups."""
    return [group["lr"] * factor for group in optimizer.param_groups]


def step_at(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    """Take an optimizer step at these learning rates, and leave those of the optimizer as they were."""
    before = [group["lr"] for group in optimizer.param_groups]
    _set_rates(optimizer, rates)
    optimizer.step()
    _set_rates(optimizer, before)


def _set_rates(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
