"""Predictors for feature maps (B, C, H, W): every example is one row, with one label, (B,)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dni.losses import squared_distance
from dni.predictors.base import Fit, LabelContext, Predictor, label_rows
from dni.predictors.critic import SoftmaxCritic

_SIZE = 5  # height and width of a filter


class Flattened(Predictor):
    """Apply a predictor of rows (B, D) to values of any shape (B, ...), flattened to (B, D)."""

    def __init__(self, rows: Predictor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        flat: Tensor = self.rows(value.flatten(1), labels)
        return flat.view(value.shape)

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        loss, prediction = self.rows.fit(value.flatten(1), labels, target.flatten(1))
        return Fit(loss, prediction.view(value.shape))

    def known(self, value: Tensor, labels: Tensor | None) -> Tensor | None:
        return self.rows.known(value.flatten(1), labels)


class ConvRegressor(Predictor):
    """g = W3 * relu(W2 * relu(W1 * v + C y) + b2) + b3, * a convolution with 5x5 filters (Jaderberg et al. 2017).

    The label's term C y is the same at every position. The weight and bias of the last layer start at zero, so that an
    untrained regressor predicts a zero gradient.

    Args:
        channels: C, the channels of the value.
        hidden: channels of the two hidden layers.
        classes: V with labels as context (the paper's cDNI), 0 without.
    """

    def __init__(self, channels: int, *, hidden: int, classes: int = 0) -> None:
        super().__init__()
        self.features, self.classes = channels, classes
        self.first = nn.Conv2d(channels, hidden, _SIZE, padding=_SIZE // 2)
        self.second = nn.Conv2d(hidden, hidden, _SIZE, padding=_SIZE // 2)
        self.last = nn.Conv2d(hidden, channels, _SIZE, padding=_SIZE // 2)
        self.context = LabelContext(classes, 1, hidden) if classes else None
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        z = self.first(value)
        if self.context is not None:
            z = z + self.context(label_rows(value.flatten(1), labels))[:, :, None, None]
        return self.last(torch.relu(self.second(torch.relu(z))))  # type: ignore[no-any-return]

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        """Return the squared distance to the target, summed over channels and positions, averaged over examples."""
        prediction = self(value, labels)
        return Fit(squared_distance(prediction.flatten(1), target.flatten(1)), prediction)


class PooledCritic(SoftmaxCritic):
    """A `SoftmaxCritic` C(p) on average-pooled feature maps: p = R v S^T in every channel.

    Its gradient dC/dv = R^T (dC/dp) S is constant within a cell of the pooling grid. `pool_grid` = 1 sees the mean of
    each channel, and the largest grid sees every position. The critic takes and returns rows (B, C H W): wrap it in
    `Flattened`.

    Args:
        shape: (C, H, W) of the value.
        pool_grid: most cells of the grid in each direction; cells as in adaptive average pooling.
        settings: classes, hidden, gradient_weight and eager_loss of `SoftmaxCritic`.
    """

    def __init__(self, shape: Sequence[int], *, pool_grid: int, **settings: Any) -> None:
        channels, height, width = shape
        rows, columns = min(pool_grid, height), min(pool_grid, width)
        super().__init__(channels * rows * columns, **settings)
        self.features = channels * height * width
        self.shape, self.grid = (channels, height, width), (channels, rows, columns)
        self.across: Tensor
        self.along: Tensor
        self.register_buffer("across", _means(height, rows), persistent=False)
        self.register_buffer("along", _means(width, columns), persistent=False)

    def _hidden(self, value: Tensor) -> Tensor:
        pooled: Tensor = self.across @ value.view(-1, *self.shape) @ self.along.T
        return super()._hidden(pooled.flatten(1))

    def _pull_back(self, z: Tensor, error: Tensor) -> Tensor:
        spread: Tensor = self.across.T @ super()._pull_back(z, error).view(-1, *self.grid) @ self.along
        return spread.flatten(1)


def _means(size: int, pool_grid: int) -> Tensor:
    """Return the pooling matrix (G, size), G = `pool_grid`.

    Row i takes the mean of the positions from floor(i size / G) up to, but not including, ceil((i + 1) size / G).
    """
    matrix = torch.zeros(pool_grid, size)
    for i in range(pool_grid):
        start, end = i * size // pool_grid, -(-(i + 1) * size // pool_grid)
        matrix[i, start:end] = 1 / (end - start)
    return matrix
