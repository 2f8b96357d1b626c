"""A local loss instead of the gradient from later stages: decoupled greedy learning."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import DivergedError
from dni.interfaces.base import Interface
from dni.loss_function import LossFunction
from dni.losses import summed_cross_entropy
from dni.metrics.fit import FitMeter
from dni.misuse import REFUSALS, explain, misfit


def local_head(features: int, classes: int, hidden: int = 0) -> nn.Sequential:
    """Return the classifier of a local loss: (..., features) -> (..., classes)."""
    below = [nn.Linear(features, hidden), nn.ReLU()] if hidden else []
    return nn.Sequential(*below, nn.Linear(hidden or features, classes))


class LocalInterface(Interface):
    """The exact gradient of the loss of a local classifier, the head (Belilovsky et al. 2019, arXiv 1901.08164).

        L(v) = -log softmax(W2 relu(W1 v + b1) + b2)[y],  or with W v + b without hidden units, summed over batch, time

    The stage backpropagates dL/dv, and the head takes one optimizer step on the mean of L over the rows of v. Stage and
    head learn as one network, without any gradient from later stages.

    Args:
        features: D, the size of an activation's row; C x H x W for feature maps.
        classes: V.
        hidden: units of the hidden layer; 0 for a linear classifier.
        learning_rate: learning rate of the head's own Adam.
        device: device of the head.
        head: another head, from values to scores, instead of this one.
        function: the loss if labels are numbers (B, T, O) and `classes` is O, so that the head is a regression; None:
            the cross-entropy above.
    """

    learns_when_asked = True

    def __init__(
        self,
        features: int,
        *,
        classes: int,
        hidden: int = 0,
        learning_rate: float = 3e-3,
        device: torch.device | str = "cpu",
        function: LossFunction | None = None,
        head: nn.Module | None = None,
    ) -> None:
        self._flattens = head is None
        self.head, self.function = (head or local_head(features, classes, hidden)).to(device), function
        self.head.features, self.head.classes = features, 0 if function else classes  # type: ignore[assignment]
        self.optimizer = torch.optim.Adam(self.head.parameters(), learning_rate, fused=True)
        self._recent = FitMeter()

    @property
    def learners(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """Return the exact dL/dvalue with the current head, for labels (B, T) or (B,), then update the head.

        Raise DivergedError if the local loss is not finite, and ValueError without labels.
        """
        if labels is None:
            raise ValueError("a local loss needs the labels of its step")
        leaf, parameters = value.detach().requires_grad_(), [p for p in self.head.parameters() if p.requires_grad]
        try:
            loss, rows = self._loss(leaf, labels), self.count(labels)
        except REFUSALS as error:
            explain(error, step, misfit(self.head, self._rows(value, labels), labels))
        self._measure(step, loss.item() / rows)
        gradient, *gradients = torch.autograd.grad(loss, [leaf, *parameters])
        for parameter, summed in zip(parameters, gradients, strict=True):
            parameter.grad = summed / rows
        self.optimizer.step()
        return gradient

    def recompute(self, value: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor:
        return self.predict(value, labels)

    def predict(self, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("a local loss needs the labels of its step")
        leaf = value.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._loss(leaf, labels), leaf)
        return gradient

    def take_recent(self) -> dict[str, float | None]:
        recent, self._recent = self._recent, FitMeter()
        return {"predictor_loss": recent.means()["predictor_loss"]}

    def state_dict(self) -> dict[str, Any]:
        recent = {**vars(self._recent)}
        return {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict(), "recent": recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._recent = FitMeter(**state.get("recent", {}))

    def _loss(self, value: Tensor, labels: Tensor) -> Tensor:
        output = self.head(self._rows(value, labels))
        return summed_cross_entropy(output, labels) if self.function is None else self.function.summed(output, labels)

    def _rows(self, value: Tensor, labels: Tensor) -> Tensor:
        maps = value.dim() > labels.dim() + 1  # (B, C, H, W)
        return value.flatten(1) if maps and self._flattens else value

    def _measure(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(f"the local loss of step {step} is {loss}: lower the learning rates or clip gradients")
        self.local_loss = loss
        self._recent.updates += 1
        self._recent.loss += loss
