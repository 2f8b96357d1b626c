"""Models that predict the gradient of the loss with respect to a value that has left a stage.

A value is an activation (B, T, D) or (B, D), whose labels are (B, T) or (B,), or a packed state (B, F), whose "labels"
are what the time cut sees beside it: the next L labels (B, L), or the last H inputs (B, H). Every row of a value gets a
gradient of its own; a predictor's loss is a mean over rows.
Of feature maps (B, C, H, W), which `dni.convolutional` is about, every example is one row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni.errors import UsageError
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


class Regressor(Predictor):
    """g = W2 relu(W1 v + C y) + b, or g = W v + C y + b without a hidden layer (Jaderberg et al. 2017, section 2).

    The last layer starts at zero, weight and bias (as does C where it is added to the last layer), so that an untrained
    regressor predicts no gradient at all.

    Args:
        features: D, the size of a row.
        hidden: units of the hidden layer; 0 for a linear predictor.
        classes: V with labels as context (the paper's cDNI), 0 without.
        lookahead: how many labels each row has.
    """

    def __init__(self, features: int, *, hidden: int = 0, classes: int = 0, lookahead: int = 1) -> None:
        super().__init__()
        self.features, self.classes = features, classes
        self.first = nn.Linear(features, hidden) if hidden else None
        self.last = nn.Linear(hidden or features, features)
        self.context = LabelContext(classes, lookahead, hidden or features) if classes else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        if self.context is not None and not hidden:
            nn.init.zeros_(self.context.table.weight)

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        seen = 0 if self.context is None else self.context(label_rows(value, labels))
        if self.first is None:
            return self.last(value) + seen  # type: ignore[no-any-return]
        return self.last(torch.relu(self.first(value) + seen))  # type: ignore[no-any-return]


class Critic(Predictor):
    """Base class of local models of a loss, whose gradient is the synthetic gradient: the loss is one of W2 z + b2,

        z = v    or, with a hidden layer,    z = tanh(W1 v + b1).

    Output weights start small, not at zero: through zeros the layer below would never hear of the loss. With `at_once`
    the loss is learned when the value leaves (`known`) and only the match waits for the target, in `fit`: the loss is
    then as fresh as that of `LocalInterface`, however late targets are.
    """

    def __init__(self, features: int, outputs: int, *, hidden: int, match: float, at_once: bool) -> None:
        super().__init__()
        self.match, self.at_once, self.features = match, at_once, features
        self.first = nn.Linear(features, hidden) if hidden else None
        self.last = nn.Linear(hidden or features, outputs)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def known(self, value: Tensor, labels: Tensor | None) -> Tensor | None:
        return self.loss(self._hidden(value), labels) if self.at_once else None

    def loss(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The loss that is modelled, at the hidden layer's z, averaged over rows: a scalar."""
        raise NotImplementedError

    def _scored(self, loss: Tensor | None, prediction: Tensor, target: Tensor) -> Fit:
        """`loss` None: it was learned at once."""
        distance = self.match * squared_distance(prediction, target)
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
    C + match * |dC/dv - target|^2: the loss itself and, as in Sobolev training (Czarnecki et al. 2017), its derivative.

    Args:
        features: D, the size of a row.
        classes: V.
        lookahead: L, labels per row: 1 in depth, the next L labels in time.
        hidden: units of the tanh layer, 0 for a linear classifier.
        match: weight of the squared distance to the target gradient.
        at_once: learn C from every value at once.
    """

    def __init__(
        self,
        features: int,
        *,
        classes: int,
        lookahead: int = 1,
        hidden: int = 0,
        match: float = 1.0,
        at_once: bool = False,
    ) -> None:
        super().__init__(features, lookahead * classes, hidden=hidden, match=match, at_once=at_once)
        self.classes = classes

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        z = self._hidden(value)
        return self._gradient(z, self._scores(z), label_rows(value, labels))

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        z, rows = self._hidden(value), label_rows(value, labels)
        scores = self._scores(z)
        loss = None if self.at_once else _mean_loss(scores, rows)
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


class LabelContext(nn.Module):
    """Labels as context: a linear map of their one-hot codes, (..., L) -> (..., features); IGNORED ones add nothing."""

    def __init__(self, classes: int, lookahead: int, features: int) -> None:
        super().__init__()
        self.table = nn.Embedding(1 + lookahead * classes, features, padding_idx=0)
        self.offset: Tensor
        self.register_buffer("offset", 1 + classes * torch.arange(lookahead), persistent=False)
        nn.init.uniform_(self.table.weight, -1, 1)
        with torch.no_grad():
            self.table.weight[0] = 0

    def forward(self, rows: Tensor) -> Tensor:
        if rows.shape[-1] != len(self.offset):
            raise UsageError(
                f"{rows.shape[-1]} labels for each row, and the predictor has lookahead={len(self.offset)}"
            )
        index = torch.where(rows == IGNORED, 0, rows + self.offset)
        return self.table(index).sum(-2)  # type: ignore[no-any-return]


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


def squared_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distance per row, averaged over rows: a scalar."""
    return (prediction - target).pow(2).sum() / (target.numel() / target.shape[-1])


def summed_cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of output (..., V) and labels (...) in nats, summed; IGNORED labels count nothing."""
    rows = output.reshape(-1, output.shape[-1])
    return F.cross_entropy(rows, labels.reshape(-1), ignore_index=IGNORED, reduction="sum")


def _mean_loss(scores: Tensor, rows: Tensor) -> Tensor:
    """Cross-entropy of scores (..., L, V) and labels (..., L), summed over a row's labels and averaged over rows."""
    return summed_cross_entropy(scores, rows) / (rows.numel() / rows.shape[-1])


def cross_entropy_gradient(output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy, and its gradient with respect to the output."""
    leaf = output.detach().requires_grad_()
    total = summed_cross_entropy(leaf, labels)
    (gradient,) = torch.autograd.grad(total, leaf)
    return total, gradient
