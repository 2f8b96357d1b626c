"""A reconstruction of the stage's input, added to the loss that its output is trained on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dni.errors import DivergedError, UsageError
from dni.interfaces.base import Interface, ReadyStep
from dni.interfaces.wrapper import InterfaceWrapper
from dni.named_tensors import Value
from dni.predictors.reconstruction import Reconstruction


class ReconstructionInterface(InterfaceWrapper):
    """Add weight dE/dv to the gradient of another interface (InfoPro, Wang et al. 2021, arXiv 2101.10832; of input
    features, arXiv 2212.14215).

    E(v, x) is the error of a linear reconstruction of the stage's input x from its output v (`Reconstruction`). A stage
    that learns from a local loss or a critic so keeps what later stages may need. The reconstruction takes one
    optimizer step on E per row for every window. Its gradient reaches the stage's input as well, and goes on to the
    previous stage as a part of the target.

    Args:
        inner: the interface.
        model: the reconstruction.
        weight: of its error.
        learning_rate: of its own Adam.
    """

    def __init__(self, inner: Interface, model: Reconstruction, *, weight: float, learning_rate: float = 3e-3) -> None:
        super().__init__(inner)
        self.learns_when_asked = inner.learns_when_asked
        self.model, self.weight = model, weight
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
        self._input: Tensor | None = None

    @property
    def staleness(self) -> int:  # type: ignore[override]
        return self.inner.staleness

    def take_input(self, value: Value) -> None:
        if not isinstance(value, Tensor):
            raise UsageError(f"a reconstruction needs one tensor, and the input has {', '.join(value)}")
        self._input = value

    def ready_steps(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        ready = self.inner.ready_steps(step, value, labels)
        added = self._learn(step, value)
        return [each._replace(gradient=_sum(each.gradient, added)) if each.step == step else each for each in ready]

    def on_skip(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        return self.inner.on_skip(step, value, labels)

    def recompute(self, value: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor | None:
        """Return what `inner` does: the input of a recomputed window is not known."""
        return self.inner.recompute(value, labels, answer)

    def predict(self, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        return self.inner.predict(value, labels, done)

    def state_dict(self) -> dict[str, Any]:
        own = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**self.inner.state_dict(), "reconstruction": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)
        self.model.load_state_dict(state["reconstruction"]["model"])
        self.optimizer.load_state_dict(state["reconstruction"]["optimizer"])

    def _learn(self, step: int, value: Tensor) -> Tensor:
        """Return weight dE/dvalue with the current reconstruction, then update that."""
        if self._input is None:
            raise UsageError(f"step {step}: take_input comes before ready_steps")
        given, self._input = self._input.detach().to(value.device), None
        leaf, parameters = value.detach().float().requires_grad_(), list(self.model.parameters())
        error, rows = self.model(leaf, given.float() if given.is_floating_point() else given)
        if not math.isfinite(error.item()):
            raise DivergedError(f"the error of the reconstruction at step {step} is {error}: lower the learning rates")
        gradient, *gradients = torch.autograd.grad(error, [leaf, *parameters])
        for parameter, summed in zip(parameters, gradients, strict=True):
            parameter.grad = summed / rows
        self.optimizer.step()
        return (self.weight * gradient).to(value.dtype)


def _sum(gradient: Tensor | None, added: Tensor) -> Tensor:
    return added if gradient is None else gradient + added
