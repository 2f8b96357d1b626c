"""Models that predict the gradient of the loss with respect to a value that has left a stage.

A value is an activation (B, T, D) or (B, D), whose labels are (B, T) or (B,), or a packed state (B, F), whose "labels"
are what the time cut sees beside it: the next L labels (B, L), or the last H inputs (B, H). Every row of a value gets a
gradient of its own; a predictor's loss is a mean over rows.
Of feature maps (B, C, H, W), which `dni.predictors.convolutional` is about, every example is one row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.losses import squared_distance
from dni.types import IGNORED


class Fit(NamedTuple):
    """What a predictor is trained on: a scalar loss, and the prediction behind it, in the shape of the value."""

    loss: Tensor
    prediction: Tensor


class Predictor(nn.Module):
    """Base class. `forward` is the synthetic gradient; `fit` scores it against a target gradient."""

    features: int | None = None  #: of a row of the values it is made for (channels of a convolution); None: any
    classes = 0  #: of the labels that it sees; 0: it sees none, or numbers

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        """The synthetic gradient dL/dvalue, in the shape of `value`; L is summed over batch and time."""
        raise NotImplementedError

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        """The squared distance to the target gradient, summed over features and averaged over rows
        (Jaderberg et al. 2017, eq. 4)."""
        prediction = self(value, labels)
        return Fit(squared_distance(prediction, target), prediction)

    def known(self, value: Tensor, labels: Tensor | None) -> Tensor | None:
        """What can be learned when the value leaves, before any target: a scalar loss; None: nothing."""
        return None


class LabelContext(nn.Module):
    """Labels as context: a linear map of their one-hot codes, (..., L) -> (..., features); IGNORED ones add nothing."""

    def __init__(self, classes: int, future_labels: int, features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(1 + future_labels * classes, features, padding_idx=0)
        self.offset: Tensor
        self.register_buffer("offset", 1 + classes * torch.arange(future_labels), persistent=False)
        nn.init.uniform_(self.table.weight, -1, 1)
        with torch.no_grad():
            self.table.weight[0] = 0

    def forward(self, rows: Tensor) -> Tensor:
        if rows.shape[-1] != len(self.offset):
            raise UsageError(
                f"{rows.shape[-1]} labels for each row, and the predictor has future_labels={len(self.offset)}"
            )
        index = torch.where(rows == IGNORED, 0, rows + self.offset)
        return self.table(index).sum(-2)  # type: ignore[no-any-return]


class NumberContext(nn.Module):
    """Numbers as context: a linear map, (..., O) -> (..., features)."""

    def __init__(self, outputs: int, features: int) -> None:
        super().__init__()
        self.table = nn.Linear(outputs, features, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.table(rows)  # type: ignore[no-any-return]


def label_rows(value: Tensor, labels: Tensor | None) -> Tensor:
    """Labels as (..., L) beside a value (..., D): an activation has one label per row, a state has L.

    Raises:
        ValueError: there are no labels, or their shape does not belong to the value's.
    """
    if labels is None:
        raise ValueError("this predictor uses labels as context, but the step came without labels")
    rows = labels if labels.dim() == value.dim() else labels.unsqueeze(-1)
    if rows.shape[:-1] != value.shape[:-1]:
        raise ValueError(f"labels {tuple(labels.shape)} do not match a value of shape {tuple(value.shape)}")
    return rows
