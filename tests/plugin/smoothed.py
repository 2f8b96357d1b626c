"""A custom loss: cross-entropy with label smoothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dni.loss_function import LossFunction
from dni.ranges import below_one
from dni.types import IGNORED


@dataclass
class Smoothed(LossFunction):
    """Label smoothing: (1 - a) times the cross-entropy with the label, plus a times its mean over all classes."""

    share: float = below_one(0.2)  # [share] a, weight of the mean over all classes

    def summed(self, output: Tensor, labels: Tensor) -> Tensor:
        known = output.log_softmax(dim=-1)[labels != IGNORED]
        chosen = known.gather(-1, labels[labels != IGNORED].unsqueeze(-1))
        return -(1 - self.share) * chosen.sum() - self.share * known.mean(dim=-1).sum()


@dataclass
class Empty(LossFunction):
    """A class without `summed`."""
