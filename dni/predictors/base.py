"""Predictors: models of the gradient of the loss with respect to a value that leaves a stage.

A value is an activation (B, T, D) or (B, D) with labels (B, T) or (B,), or a packed state (B, F) with a context as its
labels: the next L labels (B, L), or the last H inputs (B, H). Every row of a value has its own gradient, and the loss
of a predictor is a mean over rows. In feature maps (B, C, H, W), see `dni.predictors.convolutional`, every example is
one row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.losses import squared_distance
from dni.types import IGNORED


class Fit(NamedTuple):
    """The loss that a predictor is trained on, a scalar, and its prediction in the shape of the value."""

    loss: Tensor
    prediction: Tensor


class Predictor(nn.Module):
    """Base class of the predictors. `forward` returns the synthetic gradient, `fit` its loss against a target."""

    features: int | None = None  #: size of a row of the values (channels of a convolution); None: any
    fits = True  #: learns from targets; False: only from the loss that `known` returns
    classes = 0  #: number of classes of the labels it sees; 0: it sees no labels, or numbers

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        """Return the synthetic gradient dL/dvalue, in the shape of `value`; L is summed over batch and time."""
        raise NotImplementedError

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        """Return the squared distance to the target gradient, summed over features and averaged over rows.

        This is eq. 4 of Jaderberg et al. 2017.
        """
        prediction = self(value, labels)
        return Fit(squared_distance(prediction, target), prediction)

    def known(self, value: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the immediate loss, a scalar to minimise when the value leaves, before any target; None: none."""
        return None

    def learn(self, value: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the result of `forward`, and set the parameters' gradients to those of `known`'s loss, in one pass.

        None, without such gradients: the two take a pass each.
        """
        return None


class LabelContext(nn.Module):
    """Labels as context: a linear map of one-hot codes, (..., L) -> (..., features). IGNORED labels add nothing."""

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
                f"{rows.shape[-1]} labels in each row, but the predictor has future_labels={len(self.offset)}"
            )
        index = torch.where(rows == IGNORED, 0, rows + self.offset)
        return self.table(index).sum(-2)  # type: ignore[no-any-return]


class NumberContext(nn.Module):
    """A linear map of numbers as context: (..., O) -> (..., features)."""

    def __init__(self, outputs: int, features: int) -> None:
        super().__init__()
        self.table = nn.Linear(outputs, features, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.table(rows)  # type: ignore[no-any-return]


def label_rows(value: Tensor, labels: Tensor | None) -> Tensor:
    """Return the labels of a value (..., D) as (..., L): an activation has one label per row, a state has L.

    Raise ValueError if labels are None, or if their shape does not fit the value's.
    """
    if labels is None:
        raise ValueError("this predictor uses labels as context, but the step has no labels")
    rows = labels if labels.dim() == value.dim() else labels.unsqueeze(-1)
    if rows.shape[:-1] != value.shape[:-1]:
        raise ValueError(f"labels {tuple(labels.shape)} do not match a value of shape {tuple(value.shape)}")
    return rows


def first_counted(rows: Tensor, number: int) -> Tensor:
    """Return the first labels (..., N) of rows (..., L) that are not IGNORED; rows with fewer end in IGNORED."""
    counts = rows != IGNORED
    place = counts.cumsum(-1) - 1
    place = torch.where(counts & (place < number), place, number)  # the others meet in one more column
    found = rows.new_full((*rows.shape[:-1], number + 1), IGNORED)
    return found.scatter_(-1, place, rows)[..., :number]
