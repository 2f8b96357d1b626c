"""A custom method in time, which uses only the base classes of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dni.interfaces.base import Interface
from dni.methods.cut import TimeCutContext
from dni.methods.in_time import TimeMethod


class EchoInterface(Interface):
    """Return the newest target gradient, of an earlier state, times `decay`."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.newest: Tensor | None = None

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        if self.newest is None:
            return None
        answer = self.decay * self.newest
        return answer if done is None else answer.masked_fill(done.unsqueeze(-1), 0.0)

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        self.newest = gradient

    def state_dict(self) -> dict[str, Any]:
        return {"newest": self.newest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.newest = state["newest"]


@dataclass
class Echo(TimeMethod):
    """Echo: use the newest gradient of an earlier state again."""

    decay: float = 0.5  # [factor] on the newest gradient

    def interface(self, cut: TimeCutContext) -> Interface:
        return EchoInterface(self.decay)


class Unmarked(Echo):
    """A class without @dataclass."""


@dataclass
class Unfinished(TimeMethod):
    """A class without `interface`."""
