"""Custom predictors, which use only the base classes of the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni.predictors.base import Predictor
from dni.predictors.settings import DepthPredictor, PredictorContext, TimePredictor


class LabelMean(Predictor):
    """A table with one gradient per label, which learns the mean of the label's targets."""

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
    """Predict the gradient of the output from its label."""

    strength: float = 1.0  # [factor] on the table

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return LabelMean(shape[0], classes, self.strength)


@dataclass
class ByNextLabel(TimePredictor):
    """Predict the gradient of the state from the label after the window."""

    strength: float = 1.0  # [factor] on the table

    @property
    def context_labels(self) -> int:
        return 1

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return LabelMean(shape[0], classes, self.strength)


class Unmarked(ByLabel):
    """A class without @dataclass."""


@dataclass
class Unfinished(DepthPredictor):
    """A class without `build`."""
