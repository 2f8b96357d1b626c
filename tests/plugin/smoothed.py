"""A loss of a user's own: cross-entropy with smoothed labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dni.loss_function import LossFunction
from dni.ranges import below_one
from dni.types import IGNORED


@dataclass
class Smoothed(LossFunction):
    """(1 - a) times the cross-entropy with the label, and a times the mean of that with every class."""

    share: float = below_one(0.2)  # [share] a

    def summed(self, output: Tensor, labels: Tensor) -> Tensor:
        known = output.log_softmax(dim=-1)[labels != IGNORED]
        chosen = known.gather(-1, labels[labels != IGNORED].unsqueeze(-1))
        return -(1 - self.share) * chosen.sum() - self.share * known.mean(dim=-1).sum()


@dataclass
class Empty(LossFunction):
    """It lacks `summed`."""
