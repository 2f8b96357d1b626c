"""Base class of interfaces that add something to another interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dni.interfaces.base import Correction, Interface
from dni.metrics.fit import FitMeter


class InterfaceWrapper(Interface):
    """Delegates to `inner`. Subclasses override some of the calls.

    Args:
        inner: the interface to delegate to.
    """

    def __init__(self, inner: Interface) -> None:
        self.inner = inner
        self.targets_first, self.predicts = inner.targets_first, inner.predicts

    @property
    def learners(self) -> dict[str, nn.Module]:
        return self.inner.learners

    @property
    def fit_meter(self) -> FitMeter | None:
        return self.inner.fit_meter

    @property
    def ready(self) -> bool:
        return self.inner.ready

    @property
    def local_loss(self) -> float | None:  # type: ignore[override]
        return self.inner.local_loss

    def required_step(self, step: int) -> int | None:
        return self.inner.required_step(step)

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        return self.inner.gradient(step, value, labels, done)

    def corrections(self, step: int) -> list[Correction]:
        return self.inner.corrections(step)

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        self.inner.target(step, gradient, labels)

    def means(self) -> dict[str, float | None]:
        return self.inner.means()

    def take_recent(self) -> dict[str, float | None]:
        return self.inner.take_recent()

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)
