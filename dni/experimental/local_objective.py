"""A local objective: a loss of the stage's own, beside the gradient of the value it sends on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import DivergedError
from dni.interfaces.base import Interface, ReadyStep
from dni.interfaces.wrapper import InterfaceWrapper
from dni.loss_function import CrossEntropy, Judgement
from dni.losses import summed_cross_entropy
from dni.types import IGNORED


class LocalObjective(InterfaceWrapper):
    """The exact gradient of a loss of the stage's own, plus that of another interface at the same value:

        dL/dv = dL_own/dv + g(v),    L_own = -log softmax(W v + b)[y], summed over batch and time

    In the two-network experiment of Jaderberg et al. 2017, v is network A's message to B, and g its synthetic gradient.
    The head W, b takes one step on the mean of L_own at the same step, unless all labels are IGNORED.

    Labels are (B, S + L) for a value (B, S, D): first S labels of the stage's own task, then those of `inner`.

    Args:
        inner: returns g.
        features: D.
        classes: of the stage's own task.
        learning_rate: of the head's own Adam.
        device: where the head lives.
    """

    def __init__(
        self,
        inner: Interface,
        features: int,
        *,
        classes: int,
        learning_rate: float = 3e-3,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(inner)
        self.head = nn.Linear(features, classes, device=device)
        self.optimizer = torch.optim.Adam(self.head.parameters(), learning_rate, fused=True)

    @property
    def learners(self) -> dict[str, nn.Module]:
        return {"head": self.head, **{f"inner.{place}": module for place, module in self.inner.learners.items()}}

    def ready_steps(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        own, _ = _split(value, labels)
        return [ReadyStep(step, self.gradient(step, value, labels), own.numel())]

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """Return the sum. Raises DivergedError if the stage's own loss is not finite, ValueError without labels."""
        if labels is None:
            raise ValueError("a local objective needs the labels of its step")
        own, others = _split(value, labels)
        gradient, sent = self._learn(step, value, own), self.inner.gradient(step, value, others, done)
        return gradient if sent is None else gradient + sent.to(gradient.device)

    @torch.no_grad()
    def evaluation_outputs(self, value: Tensor, labels: Tensor) -> Judgement:
        return CrossEntropy().judge(self.head(value), _split(value, labels)[0])

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "head": self.head.state_dict(), "adam": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["adam"])

    def _learn(self, step: int, value: Tensor, labels: Tensor) -> Tensor:
        """Return the exact dL_own/dv, then update the head."""
        self.measured = None
        count = int((labels != IGNORED).sum())
        if not count:
            return torch.zeros_like(value)
        leaf, parameters = value.detach().requires_grad_(), list(self.head.parameters())
        loss = summed_cross_entropy(self.head(leaf), labels)
        self.measured = loss.item(), count
        if not math.isfinite(self.measured[0]):
            raise DivergedError(f"the own loss of step {step} is {self.measured[0]}: lower the learning rates")
        gradient, *gradients = torch.autograd.grad(loss, [leaf, *parameters])
        for parameter, summed in zip(parameters, gradients, strict=True):
            parameter.grad = summed / count
        self.optimizer.step()
        return gradient


def _split(value: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return labels[:, : value.shape[1]], labels[:, value.shape[1] :]
