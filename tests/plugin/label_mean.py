"""Predictors of a user, which know the package's base classes and nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni.predictors.base import Predictor
from dni.predictors.settings import DepthPredictor, PredictorContext, TimePredictor


class LabelMean(Predictor):
    """A table of gradients, one for each label: each learns the mean of its targets."""

    def __init__(self, features: int, classes: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.table = nn.Parameter(torch.zeros(classes, features))

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        one_each = labels if labels.dim() < value.dim() else labels[..., 0]
        return self.strength * self.table[one_each.clamp(min=0)]


@dataclass
class ByLabel(DepthPredictor):
    """Of the output's gradient, by its label."""

    strength: float = 1.0  # [factor] on the table

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return LabelMean(shape[0], classes, self.strength)


@dataclass
class ByNextLabel(TimePredictor):
    """Of the state's gradient, by the label that follows the window."""

    strength: float = 1.0  # [factor] on the table

    @property
    def context_labels(self) -> int:
        return 1

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return LabelMean(shape[0], classes, self.strength)


class Unmarked(ByLabel):
    """It lacks @dataclass."""


@dataclass
class Unfinished(DepthPredictor):
    """It lacks `build`."""
