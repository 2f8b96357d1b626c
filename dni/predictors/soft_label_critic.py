"""A critic where the labels ahead are not known yet: it guesses them from what was read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.losses import squared_distance, summed_cross_entropy
from dni.predictors.base import Fit, LabelContext
from dni.predictors.critic import SoftmaxCritic
from dni.types import IGNORED


class SoftLabelCritic(SoftmaxCritic):
    """A `SoftmaxCritic` of the next L labels that takes the guesses q of a second local model for the labels.

    A teacher sees the last H input symbols x, but not the state v, and guesses q(x) = softmax(U2 relu(U1 x) + c); the
    critic sees the state alone, with scores p(v). The synthetic gradient is that of the cross-entropy between them,

        d/dv  sum_l -q_l(x) . log p_l(v)  =  J^T W2^T (p - q),

    which asks of the state what the last H symbols tell of the future and the state does not hold yet. Both have a
    further class, V, for labels that do not count. Both learn from the labels when these have come, the critic from the
    target gradient too. Used where a stream is learned as it is read.

    Args:
        features: D, the size of a row, as of `SoftmaxCritic`.
        classes: V.
        future_labels: L, the labels ahead that are modelled.
        inputs: the input symbols are below it (or IGNORED, where nothing was read yet).
        history: H.
        hidden: units of the tanh layer of critic and teacher, 0 for linear models.
        gradient_weight: of the squared distance to the target gradient.
    """

    def __init__(
        self,
        features: int,
        *,
        classes: int,
        future_labels: int,
        inputs: int,
        history: int,
        hidden: int,
        gradient_weight: float = 1.0,
    ) -> None:
        super().__init__(
            features, classes=classes + 1, future_labels=future_labels, hidden=hidden, gradient_weight=gradient_weight
        )
        self.history = history
        width = hidden or features
        self.seen = LabelContext(inputs, history, width)
        self.guess = nn.Linear(width, future_labels * (classes + 1))
        with torch.no_grad():
            self.seen.table.weight /= history**0.5
        nn.init.zeros_(self.guess.weight)
        nn.init.zeros_(self.guess.bias)

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        """`labels` (B, H): the last H input symbols, the newest last."""
        z = self._hidden(value)
        guesses = torch.softmax(self._guesses(_integers(labels)), -1)
        return self._pull_back(z, torch.softmax(self._scores(z), -1) - guesses)

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        """`labels` (B, H+L): the input symbols, then the labels that came."""
        known = _integers(labels)
        seen, came = known[:, : self.history], known[:, self.history :]
        came = torch.where(came == IGNORED, self.classes - 1, came)
        z, guesses = self._hidden(value), self._guesses(seen)
        scores = self._scores(z)
        losses = summed_cross_entropy(guesses, came) + summed_cross_entropy(scores, came)
        prediction = self._pull_back(z, torch.softmax(scores, -1) - torch.softmax(guesses.detach(), -1))
        return Fit(losses / len(value) + self.gradient_weight * squared_distance(prediction, target), prediction)

    def _guesses(self, seen: Tensor) -> Tensor:
        return self.guess(torch.relu(self.seen(seen))).unflatten(-1, (-1, self.classes))  # type: ignore[no-any-return]


def _integers(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("this critic guesses from the last input symbols, but the step came without them")
    return labels
