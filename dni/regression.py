"""Regression: the squared error as the loss at the end of a network, and as what a critic models at its cuts.

Labels are numbers then, y (..., O) beside an activation (..., D): one row each.
"""

from __future__ import annotations

from torch import Tensor

from dni.interface import LossInterface
from dni.predictor import Critic, Fit, squared_distance


class SquaredCritic(Critic):
    """A local model of a squared error whose gradient is the synthetic gradient.

    With z = v (hidden = 0) or z = tanh(W1 v + b1), and a row's labels y,

        C(v) = 1/2 |W2 z + b2 - y|^2,    dC/dv = J^T W2^T (W2 z + b2 - y),    J = dz/dv.

    `fit` returns C + match * |dC/dv - target|^2, as that of `SoftmaxCritic` does (Czarnecki et al. 2017). Without a
    hidden layer and with match = 0 what it learns is linear least squares: exact where all that follows is linear.

    Args:
        features: D, the size of a row.
        outputs: O, labels of a row.
        hidden: units of the tanh layer, 0 for a linear model.
        match: weight of the squared distance to the target gradient.
        at_once: learn C from every value at once.
    """

    def __init__(
        self, features: int, outputs: int, *, hidden: int = 0, match: float = 1.0, at_once: bool = False
    ) -> None:
        super().__init__(features, outputs, hidden=hidden, match=match, at_once=at_once)

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        """dC/dv, in the shape of `value`. Raises ValueError if the labels do not belong to it."""
        return self._gradient(self._hidden(value), labels)

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        z = self._hidden(value)
        loss = None if self.at_once else self.loss(z, labels)
        return self._scored(loss, self._gradient(z, labels), target)

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        estimate = self.last(z)
        return squared_distance(estimate, numbers(estimate, labels)) / 2

    def _gradient(self, z: Tensor, labels: Tensor | None) -> Tensor:
        estimate: Tensor = self.last(z)
        return self._pull_back(z, estimate - numbers(estimate, labels))


class SquaredLossInterface(LossInterface):
    """Half the squared error of the last stage's output (..., O) against labels (..., O), summed.

    `loss` holds the last step's mean per row; `measured` the sum and the number of rows.
    """

    def _differentiated(self, value: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        error = value.detach() - numbers(value, labels)
        return error.pow(2).sum() / 2, error

    def _misfit(self, value: Tensor, labels: Tensor) -> str | None:
        return None

    def _count(self, labels: Tensor) -> int:
        return labels.numel() // labels.shape[-1]


def numbers(estimate: Tensor, labels: Tensor | None) -> Tensor:
    """The labels (..., O) of an estimate (..., O). Raises ValueError if there are none, or of another shape."""
    if labels is None:
        raise ValueError("a squared error needs the labels of its step")
    if labels.shape != estimate.shape:
        raise ValueError(f"labels {tuple(labels.shape)} do not match an estimate of shape {tuple(estimate.shape)}")
    return labels
