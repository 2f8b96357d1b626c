"""Critics: small models of the loss, whose gradient with respect to the value is the synthetic gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.losses import _mean_loss, numbers, squared_distance
from dni.predictors.base import Fit, Predictor, first_counted, label_rows
from dni.types import IGNORED


class Critic(Predictor):
    """Base class of the critics: local models of the loss, whose gradient is the synthetic gradient.

    The modelled loss is a function of W2 z + b2, with z = v, or z = tanh(W1 v + b1) with a hidden layer. Output weights
    start small but not at zero, because zeros would block the gradient to the layer below. With `eager_loss`, the
    critic learns the loss as soon as the value leaves (`known`), as `LocalInterface` does. Only the distance to the
    target gradient then waits for the target (`fit`).
    """

    def __init__(self, features: int, outputs: int, *, hidden: int, gradient_weight: float, eager_loss: bool) -> None:
        super().__init__()
        self.gradient_weight, self.eager_loss, self.features = gradient_weight, eager_loss, features
        self.first = nn.Linear(features, hidden) if hidden else None
        self.last = nn.Linear(hidden or features, outputs)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def known(self, value: Tensor, labels: Tensor | None) -> Tensor | None:
        return self.loss(self._hidden(value), labels) if self.eager_loss else None

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the modelled loss at z, averaged over rows: a scalar."""
        raise NotImplementedError

    def _scored(self, loss: Tensor | None, prediction: Tensor, target: Tensor) -> Fit:
        """Add the weighted distance to the target to the loss; `loss` is None if `known` has learned it."""
        distance = self.gradient_weight * squared_distance(prediction, target)
        return Fit(distance if loss is None else loss + distance, prediction)

    def _hidden(self, value: Tensor) -> Tensor:
        return value if self.first is None else torch.tanh(self.first(value))

    def _pull_back(self, z: Tensor, error: Tensor) -> Tensor:
        """Return dC/dv = J^T W2^T error, with J = dz/dv and the error dC/d(W2 z + b2)."""
        back = error @ self.last.weight
        return back if self.first is None else (back * (1 - z * z)) @ self.first.weight


class SoftmaxCritic(Critic):
    """A local model of a softmax loss, whose gradient is the synthetic gradient.

    With z = v (hidden = 0) or z = tanh(W1 v + b1), and the labels y_l of a row, l = 1 ... L,

        C(v) = sum_l -log softmax(W2 z + b2)[l, y_l],    dC/dv = J^T W2^T (softmax - onehot),    J = dz/dv.

    `fit` returns C + gradient_weight * |dC/dv - target|^2: the loss and its derivative, as in Sobolev training
    (Czarnecki et al. 2017).

    Args:
        features: D, the size of a row.
        classes: V.
        future_labels: L, labels per row: 1 in depth, the next L labels in time.
        counted: N, model only the first N labels of a row that are not IGNORED, in their order, wherever they lie in
            it: the sum goes over l = 1 ... N. A row with fewer has fewer terms. None: all L.
        hidden: units of the tanh layer; 0 for a linear classifier.
        gradient_weight: weight of the squared distance to the target gradient.
        eager_loss: learn C from every value at once, before its target.
    """

    def __init__(
        self,
        features: int,
        *,
        classes: int,
        future_labels: int = 1,
        counted: int | None = None,
        hidden: int = 0,
        gradient_weight: float = 1.0,
        eager_loss: bool = False,
    ) -> None:
        outputs = (counted or future_labels) * classes
        super().__init__(features, outputs, hidden=hidden, gradient_weight=gradient_weight, eager_loss=eager_loss)
        self.classes, self.counted = classes, counted

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        z = self._hidden(value)
        return self._gradient(z, self._scores(z), self._rows(value, labels))

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        z, rows = self._hidden(value), self._rows(value, labels)
        scores = self._scores(z)
        loss = None if self.eager_loss else _mean_loss(scores, rows)
        return self._scored(loss, self._gradient(z, scores, rows), target)

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return _mean_loss(self._scores(z), self._rows(z, labels))

    def _rows(self, value: Tensor, labels: Tensor | None) -> Tensor:
        rows = label_rows(value, labels)
        return rows if self.counted is None else first_counted(rows, self.counted)

    def _scores(self, z: Tensor) -> Tensor:
        return self.last(z).unflatten(-1, (-1, self.classes))  # type: ignore[no-any-return]

    def _gradient(self, z: Tensor, scores: Tensor, rows: Tensor) -> Tensor:
        index = rows.unsqueeze(-1)
        minus_one = scores.new_full(index.shape, -1.0)
        error = torch.softmax(scores, -1).scatter_add(-1, index.clamp(min=0), minus_one)
        unknown = index == IGNORED
        if unknown.any():  # masking costs a pass over all classes
            error = error.masked_fill(unknown, 0.0)
        return self._pull_back(z, error)

    def _pull_back(self, z: Tensor, error: Tensor) -> Tensor:
        """Return dC/dv for the error dC/d scores (..., L, V)."""
        return super()._pull_back(z, error.flatten(-2))


class SquaredCritic(Critic):
    """A local model of a squared error, whose gradient is the synthetic gradient.

    With z = v (hidden = 0) or z = tanh(W1 v + b1), and the labels y of a row,

        C(v) = 1/2 |W2 z + b2 - y|^2,    dC/dv = J^T W2^T (W2 z + b2 - y),    J = dz/dv.

    `fit` returns C + gradient_weight * |dC/dv - target|^2, as `SoftmaxCritic` does (Czarnecki et al. 2017). Without a
    hidden layer and with gradient_weight = 0 it learns linear least squares, which is exact if the rest of the network
    is linear.

    Args:
        features: D, the size of a row.
        outputs: O, labels per row.
        hidden: units of the tanh layer; 0 for a linear model.
        gradient_weight: weight of the squared distance to the target gradient.
        eager_loss: learn C from every value at once, before its target.
    """

    def __init__(
        self, features: int, outputs: int, *, hidden: int = 0, gradient_weight: float = 1.0, eager_loss: bool = False
    ) -> None:
        super().__init__(features, outputs, hidden=hidden, gradient_weight=gradient_weight, eager_loss=eager_loss)

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        """Return dC/dv, in the shape of `value`. Raise ValueError if the labels do not fit it."""
        return self._gradient(self._hidden(value), labels)

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        z = self._hidden(value)
        loss = None if self.eager_loss else self.loss(z, labels)
        return self._scored(loss, self._gradient(z, labels), target)

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        estimate = self.last(z)
        return squared_distance(estimate, numbers(estimate, labels)) / 2

    def _gradient(self, z: Tensor, labels: Tensor | None) -> Tensor:
        estimate: Tensor = self.last(z)
        return self._pull_back(z, estimate - numbers(estimate, labels))
