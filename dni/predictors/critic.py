"""Critics: small models of the loss, whose gradient with respect to the value is the synthetic gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.losses import _mean_loss, numbers, squared_distance
from dni.predictors.base import Fit, Predictor, label_rows
from dni.types import IGNORED


class Critic(Predictor):
    """Base class of local models of a loss, whose gradient is the synthetic gradient: the loss is one of W2 z + b2,

        z = v    or, with a hidden layer,    z = tanh(W1 v + b1).

    Output weights start small, not at zero: through zeros the layer below would never hear of the loss. With
    `eager_loss` the loss is learned when the value leaves (`known`), and only the match waits for the target, in
    `fit`: the loss is then as fresh as that of `LocalInterface`, however late targets are.
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
        """The loss that is modelled, at the hidden layer's z, averaged over rows: a scalar."""
        raise NotImplementedError

    def _scored(self, loss: Tensor | None, prediction: Tensor, target: Tensor) -> Fit:
        """`loss` None: it was learned at once."""
        distance = self.gradient_weight * squared_distance(prediction, target)
        return Fit(distance if loss is None else loss + distance, prediction)

    def _hidden(self, value: Tensor) -> Tensor:
        return value if self.first is None else torch.tanh(self.first(value))

    def _pull_back(self, z: Tensor, error: Tensor) -> Tensor:
        """dC/dv = J^T W2^T error, J = dz/dv, from the error dC/d(W2 z + b2)."""
        back = error @ self.last.weight
        return back if self.first is None else (back * (1 - z * z)) @ self.first.weight


class SoftmaxCritic(Critic):
    """A local model of a softmax loss whose gradient is the synthetic gradient.

    With z = v (hidden = 0) or z = tanh(W1 v + b1), and for each of a row's L labels y_l the cross-entropy

        C(v) = sum_l -log softmax(W2 z + b2)[l, y_l]

    the synthetic gradient is dC/dv = J^T W2^T (softmax - onehot), J = dz/dv, written out below. `fit` returns
    C + gradient_weight * |dC/dv - target|^2: the loss itself and, as in Sobolev training (Czarnecki et al. 2017), its
    derivative.

    Args:
        features: D, the size of a row.
        classes: V.
        future_labels: L, labels per row: 1 in depth, the next L labels in time.
        hidden: units of the tanh layer, 0 for a linear classifier.
        gradient_weight: of the squared distance to the target gradient.
        eager_loss: learn C from every value at once.
    """

    def __init__(
        self,
        features: int,
        *,
        classes: int,
        future_labels: int = 1,
        hidden: int = 0,
        gradient_weight: float = 1.0,
        eager_loss: bool = False,
    ) -> None:
        super().__init__(
            features, future_labels * classes, hidden=hidden, gradient_weight=gradient_weight, eager_loss=eager_loss
        )
        self.classes = classes

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        z = self._hidden(value)
        return self._gradient(z, self._scores(z), label_rows(value, labels))

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        z, rows = self._hidden(value), label_rows(value, labels)
        scores = self._scores(z)
        loss = None if self.eager_loss else _mean_loss(scores, rows)
        return self._scored(loss, self._gradient(z, scores, rows), target)

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return _mean_loss(self._scores(z), label_rows(z, labels))

    def _scores(self, z: Tensor) -> Tensor:
        return self.last(z).unflatten(-1, (-1, self.classes))  # type: ignore[no-any-return]

    def _gradient(self, z: Tensor, scores: Tensor, rows: Tensor) -> Tensor:
        index = rows.unsqueeze(-1)
        minus_one = scores.new_full(index.shape, -1.0)
        error = torch.softmax(scores, -1).scatter_add(-1, index.clamp(min=0), minus_one)
        unknown = index == IGNORED
        if unknown.any():  # worth the question: masking is a pass over all classes
            error = error.masked_fill(unknown, 0.0)
        return self._pull_back(z, error)

    def _pull_back(self, z: Tensor, error: Tensor) -> Tensor:
        """dC/dv from dC/d scores (..., L, V)."""
        return super()._pull_back(z, error.flatten(-2))


class SquaredCritic(Critic):
    """A local model of a squared error whose gradient is the synthetic gradient.

    With z = v (hidden = 0) or z = tanh(W1 v + b1), and a row's labels y,

        C(v) = 1/2 |W2 z + b2 - y|^2,    dC/dv = J^T W2^T (W2 z + b2 - y),    J = dz/dv.

    `fit` returns C + gradient_weight * |dC/dv - target|^2, as that of `SoftmaxCritic` does (Czarnecki et al. 2017).
    Without a hidden layer and with gradient_weight = 0 it learns linear least squares: exact if all that follows is
    linear.

    Args:
        features: D, the size of a row.
        outputs: O, labels of a row.
        hidden: units of the tanh layer, 0 for a linear model.
        gradient_weight: of the squared distance to the target gradient.
        eager_loss: learn C from every value at once.
    """

    def __init__(
        self, features: int, outputs: int, *, hidden: int = 0, gradient_weight: float = 1.0, eager_loss: bool = False
    ) -> None:
        super().__init__(features, outputs, hidden=hidden, gradient_weight=gradient_weight, eager_loss=eager_loss)

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        """dC/dv, in the shape of `value`. Raises ValueError if the labels do not belong to it."""
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
