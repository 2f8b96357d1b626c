"""Regressors: direct models of the gradient of the loss with respect to a value, with labels as optional context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.predictors.base import LabelContext, NumberContext, Predictor, label_rows


class Regressor(Predictor):
    """g = W2 relu(W1 v + C y) + b, or g = W v + C y + b without a hidden layer (Jaderberg et al. 2017, section 2).

    The weight and bias of the last layer start at zero (and so does C without a hidden layer), so that an untrained
    regressor predicts a zero gradient.

    Args:
        features: D, the size of a row.
        hidden: units of the hidden layer; 0 for a linear predictor.
        classes: V with labels as context (the paper's cDNI), 0 without.
        future_labels: L, labels per row.
        outputs: O, if the labels given as context are numbers (..., O); C is then a matrix. Replaces `classes`.
    """

    def __init__(
        self, features: int, *, hidden: int = 0, classes: int = 0, future_labels: int = 1, outputs: int = 0
    ) -> None:
        super().__init__()
        self.features, self.classes = features, classes
        self.first = nn.Linear(features, hidden) if hidden else None
        self.last = nn.Linear(hidden or features, features)
        width = hidden or features
        self.context: LabelContext | NumberContext | None = None
        if classes or outputs:
            self.context = LabelContext(classes, future_labels, width) if classes else NumberContext(outputs, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        if self.context is not None and not hidden:
            nn.init.zeros_(self.context.table.weight)

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        context = 0 if self.context is None else self.context(label_rows(value, labels))
        if self.first is None:
            return self.last(value) + context  # type: ignore[no-any-return]
        return self.last(torch.relu(self.first(value) + context))  # type: ignore[no-any-return]
