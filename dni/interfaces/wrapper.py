"""An interface around another one, for what adds to it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dni.interfaces.base import Interface
from dni.misuse import refuse_below


class InterfaceWrapper(Interface):
    """Does as `inner` does. Subclasses change some of it."""

    def __init__(self, inner: Interface) -> None:
        self.inner = inner
        self.targets_first = inner.targets_first

    @property
    def learner(self) -> nn.Module | None:
        return self.inner.learner

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


class MultiRateInterface(InterfaceWrapper):
    """The next stage works only at steps that are multiples of `every`.

    At the others nothing is sent to it, so that nothing is asked, remembered or waited for: the gradient is zero.
    """

    def __init__(self, inner: Interface, every: int) -> None:
        super().__init__(inner)
        refuse_below(1, every=every)
        self.every = every

    def required_step(self, step: int) -> int | None:
        return None if step % self.every else self.inner.required_step(step)

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        return None if step % self.every else self.inner.gradient(step, value, labels, done)
