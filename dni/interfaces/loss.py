"""The exact gradient of a loss: the interface of the last stage."""

from __future__ import annotations

import math

from torch import Tensor

from dni.errors import DivergedError
from dni.interfaces.base import Interface, ReadyStep
from dni.loss_function import CrossEntropy, Judgement, LossFunction, SquaredError
from dni.misuse import REFUSALS, explain


class LossInterface(Interface):
    """The loss of the last stage's output (..., V) and labels (...), summed; IGNORED labels count nothing.

    `loss` holds the last step's mean per label: in nats for the softmax cross-entropy, which is taken if no other is
    given; `measured` the sum and the number of labels.
    """

    def __init__(self, function: LossFunction | None = None) -> None:
        self.function = function or CrossEntropy()
        self.loss = math.nan

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """The exact dL/dvalue. Raises DivergedError if the loss is not finite, ValueError without labels, and its
        UsageError for labels that do not belong to the value."""
        if labels is None:
            raise ValueError(f"step {step} reached the loss without labels")
        try:
            total, gradient = self.function.gradient(value, labels)
        except REFUSALS as error:
            explain(error, step, self.function.misfit(value, labels))
        self.measured = total.item(), self.function.count(labels)
        self.loss = self.measured[0] / max(1, self.measured[1])
        if not math.isfinite(self.loss):
            raise DivergedError(f"the loss of step {step} is {self.loss}: lower the learning rates or clip gradients")
        return gradient

    def on_skip(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        """The loss is measured all the same."""
        self.gradient(step, value, labels)
        return []

    def recompute(self, value: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor:
        return self.function.gradient(value, labels)[1]

    def evaluation_outputs(self, value: Tensor, labels: Tensor) -> Judgement:
        return self.function.judge(value, labels)


class SquaredLossInterface(LossInterface):
    """Half the squared error of the last stage's output (..., O) against labels (..., O), summed.

    `loss` holds the last step's mean per row; `measured` the sum and the number of rows.
    """

    def __init__(self) -> None:
        super().__init__(SquaredError())
