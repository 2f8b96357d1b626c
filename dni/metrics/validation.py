"""Metrics of validation beside the loss: the base class and the package's own metrics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dni.errors import ConfigError
from dni.losses import numbers
from dni.plugin import Named
from dni.ranges import one_or_more
from dni.types import IGNORED


@dataclass
class Metric(Named, ABC):
    """Base class of the metrics of validation.

    To add a metric, write a dataclass that subclasses this class, in a module of your own, and name it in the setting
    `metrics`. It returns sums, which are added up over the windows of a pass. Only `sums` is required.
    """

    #: Whether a larger value is better.
    higher_is_better: ClassVar[bool] = True

    @property
    def key(self) -> str:
        """The name in records, unique among the metrics of a run."""
        return self.name

    @abstractmethod
    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        """Return the sums of one window; their number is always the same.

        The output is (..., V) and labels are (...); for regression both are (..., O). IGNORED labels do not count.
        """

    def value(self, sums: Sequence[float]) -> float:
        """Return the metric from the added sums. By default this is the first over the second, NaN if that is 0."""
        return sums[0] / sums[1] if sums[1] else math.nan


@dataclass
class TopK(Metric):
    """The share of labels that are among the k largest of their scores."""

    k: int = one_or_more(5)  # [classes] with the largest scores

    @property
    def key(self) -> str:
        return f"top{self.k}"

    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        best = output.topk(min(self.k, output.shape[-1]), dim=-1).indices
        return float((best == labels.unsqueeze(-1)).sum()), float((labels != IGNORED).sum())


@dataclass
class MeanAbsoluteError(Metric):
    """The mean absolute difference of outputs and labels."""

    name: ClassVar[str] = "mae"
    higher_is_better: ClassVar[bool] = False

    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        return float((output - numbers(output, labels)).abs().sum()), float(labels.numel())


@dataclass
class RootMeanSquaredError(Metric):
    """The root of the mean squared difference of outputs and labels."""

    name: ClassVar[str] = "rmse"
    higher_is_better: ClassVar[bool] = False

    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        return float((output - numbers(output, labels)).square().sum()), float(labels.numel())

    def value(self, sums: Sequence[float]) -> float:
        return math.sqrt(super().value(sums))


class MetricSums:
    """The sums of several metrics over the windows of a pass."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self._sums: list[list[float]] = []

    def add(self, output: Tensor, labels: Tensor) -> None:
        """Add one window."""
        found = [[float(one) for one in metric.sums(output.detach(), labels)] for metric in self.metrics]
        earlier = self._sums or [[0.0] * len(sums) for sums in found]
        self._sums = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(earlier, found, strict=True)]

    def take(self) -> dict[str, float]:
        """Return the values by key and start a new pass. Empty without metrics or windows."""
        sums, self._sums = self._sums, []
        return {metric.key: float(metric.value(one)) for metric, one in zip(self.metrics, sums, strict=bool(sums))}

    @property
    def directions(self) -> dict[str, bool]:
        """For each key, whether a larger value is better."""
        return {metric.key: metric.higher_is_better for metric in self.metrics}


def refuse_twins(metrics: Sequence[Metric]) -> None:
    """Raise ConfigError if two metrics have the same key."""
    keys = [metric.key for metric in metrics]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"metrics: two are called {twice}: leave one out, or give one another `key`")
