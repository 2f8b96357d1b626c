"""The exact gradient of a loss: the interface of the last stage."""

from __future__ import annotations

import math

from torch import Tensor

from dni.errors import DivergedError
from dni.interfaces.base import Due, Interface
from dni.losses import cross_entropy_gradient, numbers
from dni.misuse import REFUSALS, explain, label_misfit
from dni.types import IGNORED


class LossInterface(Interface):
    """Softmax cross-entropy of the last stage's output (..., V) and labels (...), summed; IGNORED labels count nothing.

    `loss` holds the last step's mean in nats per label.
    """

    def __init__(self) -> None:
        self.loss = math.nan

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, over: Tensor | None = None) -> Tensor:
        """The exact dL/dvalue. Raises DivergedError if the loss is not finite, ValueError without labels, and its
        UsageError for labels that do not belong to the value."""
        if labels is None:
            raise ValueError(f"step {step} reached the loss without labels")
        try:
            total, gradient = self._differentiated(value, labels)
        except REFUSALS as error:
            explain(error, step, self._misfit(value, labels))
        self.measured = total.item(), self._count(labels)
        self.loss = self.measured[0] / max(1, self.measured[1])
        if not math.isfinite(self.loss):
            raise DivergedError(f"the loss of step {step} is {self.loss}: lower the learning rates or clip gradients")
        return gradient

    def skip(self, step: int, value: Tensor, labels: Tensor) -> list[Due]:
        """The loss is measured all the same."""
        self.gradient(step, value, labels)
        return []

    def again(self, value: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor:
        return self._differentiated(value, labels)[1]

    def judged(self, value: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return value, labels

    def _differentiated(self, value: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss, and its gradient with respect to the value."""
        return cross_entropy_gradient(value, labels)

    def _misfit(self, value: Tensor, labels: Tensor) -> str | None:
        """Why the loss of these cannot be computed."""
        if labels.numel() != value[..., 0].numel():
            return (
                f"labels {tuple(labels.shape)} for an output of shape {tuple(value.shape)}: one is needed for each row"
            )
        return label_misfit("the output", value, labels)

    def _count(self, labels: Tensor) -> int:
        return int((labels != IGNORED).sum())


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
