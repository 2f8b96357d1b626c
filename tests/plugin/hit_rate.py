"""Metrics of a user's own: the recall of one class, and some that are not whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dni.metrics.validation import Metric


@dataclass
class Recall(Metric):
    """The share of the labels of one class that are predicted."""

    of: int = 0  # [class] to measure

    @property
    def key(self) -> str:
        return f"recall_{self.of}"

    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        asked = labels == self.of
        return float((output.argmax(-1)[asked] == self.of).sum()), float(asked.sum())


@dataclass
class Wrong(Metric):
    """It takes labels to have another shape."""

    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        return float(output[:, :, 99].sum()), 1.0


@dataclass
class Unsummed(Metric):
    """It lacks `sums`."""
