"""A critic for streams, whose next labels are not known yet: it predicts them from the last inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.losses import squared_distance, summed_cross_entropy
from dni.predictors.base import Fit, LabelContext
from dni.predictors.critic import SoftmaxCritic
from dni.types import IGNORED


class SoftLabelCritic(SoftmaxCritic):
    """A `SoftmaxCritic` of the next L labels, trained on the soft labels q of a second model, the teacher.

    The teacher sees the last H input symbols x, but not the state v: q(x) = softmax(U2 relu(U1 x) + c). The critic sees
    the state alone and has probabilities p(v). The synthetic gradient is that of the cross-entropy between them:

        d/dv  sum_l -q_l(x) . log p_l(v)  =  J^T W2^T (p - q)

    It trains the state to hold the information about the future that the last H symbols contain. Both models have an
    additional class, V, for IGNORED labels. Both learn from the labels when these are known, and the critic from the
    target gradient as well.

    Args:
        features: D, the size of a row.
        classes: V.
        future_labels: L, number of labels after the window.
        inputs: number of input symbols; before the start of a sequence inputs are IGNORED.
        history: H, number of input symbols that the teacher sees.
        hidden: units of the critic's tanh layer and of the teacher's relu layer; 0 for a linear critic, and a teacher
            with D units.
        gradient_weight: weight of the squared distance to the target gradient.
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
        """Return the synthetic gradient; `labels` (B, H) are the last H input symbols, the newest last."""
        z = self._hidden(value)
        soft_labels = torch.softmax(self._teacher_scores(_integers(labels)), -1)
        return self._pull_back(z, torch.softmax(self._scores(z), -1) - soft_labels)

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        """Return the losses of critic and teacher; `labels` (B, H+L) are the input symbols, then the true labels."""
        context = _integers(labels)
        inputs, future = context[:, : self.history], context[:, self.history :]
        future = torch.where(future == IGNORED, self.classes - 1, future)
        z, teacher_scores = self._hidden(value), self._teacher_scores(inputs)
        scores = self._scores(z)
        losses = summed_cross_entropy(teacher_scores, future) + summed_cross_entropy(scores, future)
        prediction = self._pull_back(z, torch.softmax(scores, -1) - torch.softmax(teacher_scores.detach(), -1))
        return Fit(losses / len(value) + self.gradient_weight * squared_distance(prediction, target), prediction)

    def _teacher_scores(self, inputs: Tensor) -> Tensor:
        return self.guess(torch.relu(self.seen(inputs))).unflatten(-1, (-1, self.classes))  # type: ignore[no-any-return]


def _integers(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("this critic predicts labels from the last input symbols, but the step has none")
    return labels
