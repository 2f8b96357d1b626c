"""The exact gradient as a prediction, to bound what any predictor can reach. For analysis, in one process."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dni.predictor import Predictor


class Oracle(Predictor):
    """Differentiates the true remaining loss.

    Args:
        remaining_loss: maps a value and its labels to the summed loss of everything that follows it: the rest of the
            network in depth, the rest of the sequence in time, with today's parameters.
    """

    def __init__(self, remaining_loss: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.remaining_loss = remaining_loss

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        with torch.enable_grad():
            leaf = value.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.remaining_loss(leaf, labels), leaf)
        return gradient
