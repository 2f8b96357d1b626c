"""Figures of validation beside the loss: a base class, and some of the package."""

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

    A metric of your own is a subclass and a dataclass, in a module of your own, which `metrics` names. It is made of
    sums that are added up over the windows of a pass; `sums` is all that it must have.
    """

    #: Whether a larger value is better.
    higher_is_better: ClassVar[bool] = True

    @property
    def key(self) -> str:
        """What it is called in records: no two metrics of a run have the same."""
        return self.name

    @abstractmethod
    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        """Of one window, output (..., V) and labels (...); in regression both are (..., O). Always as many numbers.

        IGNORED labels count nothing.
        """

    def value(self, sums: Sequence[float]) -> float:
        """Of the added sums; without one of your own, the first over the second, and NaN where that is 0."""
        return sums[0] / sums[1] if sums[1] else math.nan


@dataclass
class TopK(Metric):
    """The share of labels that are among the k largest of their scores."""

    k: int = one_or_more(5)  # [classes] that may be named

    @property
    def key(self) -> str:
        return f"top{self.k}"

    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        best = output.topk(min(self.k, output.shape[-1]), dim=-1).indices
        return float((best == labels.unsqueeze(-1)).sum()), float((labels != IGNORED).sum())


@dataclass
class MeanAbsoluteError(Metric):
    """The mean distance of numbers and labels."""

    name: ClassVar[str] = "mae"
    higher_is_better: ClassVar[bool] = False

    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        return float((output - numbers(output, labels)).abs().sum()), float(labels.numel())


@dataclass
class RootMeanSquaredError(Metric):
    """The root of the mean squared distance of numbers and labels."""

    name: ClassVar[str] = "rmse"
    higher_is_better: ClassVar[bool] = False

    def sums(self, output: Tensor, labels: Tensor) -> Sequence[float]:
        return float((output - numbers(output, labels)).square().sum()), float(labels.numel())

    def value(self, sums: Sequence[float]) -> float:
        return math.sqrt(super().value(sums))


class MetricSums:
    """Some metrics over the windows of one pass."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self._sums: list[list[float]] = []

    def add(self, output: Tensor, labels: Tensor) -> None:
        """Take one window."""
        found = [[float(one) for one in metric.sums(output.detach(), labels)] for metric in self.metrics]
        earlier = self._sums or [[0.0] * len(sums) for sums in found]
        self._sums = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(earlier, found, strict=True)]

    def take(self) -> dict[str, float]:
        """The values by key; what follows is another pass. Empty where there is no metric, or no window was taken."""
        sums, self._sums = self._sums, []
        return {metric.key: float(metric.value(one)) for metric, one in zip(self.metrics, sums, strict=bool(sums))}

    @property
    def directions(self) -> dict[str, bool]:
        """Whether a larger value is better, by key."""
        return {metric.key: metric.higher_is_better for metric in self.metrics}


def refuse_twins(metrics: Sequence[Metric]) -> None:
    """Raise ConfigError if two metrics are called the same."""
    keys = [metric.key for metric in metrics]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"metrics: two are called {twice}: leave one out, or give one a `key` of its own")
