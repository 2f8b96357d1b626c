"""The exact gradient as a prediction: an upper bound for every predictor. For analysis, in one process."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dni.interfaces.base import Interface
from dni.loss_function import CrossEntropy, LossFunction
from dni.predictors.base import Predictor
from dni.recurrent import Chain, unpack
from dni.rng import without_dropout


class Oracle(Predictor):
    """A predictor that differentiates the true remaining loss.

    Args:
        remaining_loss: maps a value and its labels to the summed loss of the rest of the network (in depth) or of the
            sequence (in time), with the current parameters.
    """

    def __init__(self, remaining_loss: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.remaining_loss = remaining_loss

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        with torch.enable_grad():
            leaf = value.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.remaining_loss(leaf, labels), leaf)
        return gradient


class OracleInterface(Interface):
    """A time cut that returns the exact gradient of the rest of the sequence. It does not learn.

    With constant parameters over a sequence, this is full backpropagation through time. Every call runs the rest of the
    sequence forward and backward, without dropout, so the cost grows with the square of the number of windows.

    Args:
        module: the whole model, whose output is the scores of the labels.
        rest: returns the inputs (B, N) and labels (B, N) after the current window; N = 0 at the end.
        loss: the loss of the network; default softmax cross-entropy.
    """

    def __init__(
        self, module: Chain, rest: Callable[[], tuple[Tensor, Tensor]], loss: LossFunction | None = None
    ) -> None:
        self.module, self.rest, self.loss = module, rest, loss or CrossEntropy()

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        inputs, wanted = self.rest()
        if not inputs.shape[1]:
            return None

        def remaining_loss(state: Tensor, _: Tensor | None) -> Tensor:
            entered = unpack(state, self.module.initial_state(len(state)))
            output, _after = self.module(inputs.to(state.device), entered)
            return self.loss.summed(output, wanted.to(state.device))

        with without_dropout(self.module):
            exact: Tensor = Oracle(remaining_loss)(value, None)
        return exact if done is None else exact.masked_fill(done.unsqueeze(-1), 0.0)
