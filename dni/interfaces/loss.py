"""The interface of the last stage: the exact gradient of the loss."""

from __future__ import annotations

import math

from torch import Tensor

from dni.errors import DivergedError
from dni.interfaces.base import Interface, ReadyStep
from dni.loss_function import CrossEntropy, Judgement, LossFunction, SquaredError
from dni.misuse import REFUSALS, explain


class LossInterface(Interface):
    """The summed loss of the last stage's output (..., V) and labels (...); IGNORED labels add nothing.

    `loss` holds the mean per label of the last step, and `measured` the sum and the number of labels. The default loss
    is softmax cross-entropy, in nats.
    """

    def __init__(self, function: LossFunction | None = None) -> None:
        self.function = function or CrossEntropy()
        self.loss = math.nan

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """Return the exact dL/dvalue.

        Raise DivergedError if the loss is not finite, ValueError without labels, and UsageError for labels that do not
        fit the value.
        """
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
        """Measure the loss; no window is due."""
        self.gradient(step, value, labels)
        return []

    def recompute(self, value: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor:
        return self.function.gradient(value, labels)[1]

    def evaluation_outputs(self, value: Tensor, labels: Tensor) -> Judgement:
        return self.function.judge(value, labels)


class SquaredLossInterface(LossInterface):
    """Half the squared error between the last stage's output (..., O) and labels (..., O), summed.

    `loss` holds the mean per row of the last step, and `measured` the sum and the number of rows.
    """

    def __init__(self) -> None:
        super().__init__(SquaredError())
