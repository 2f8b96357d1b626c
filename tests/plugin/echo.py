"""A method in time of a user, which knows the package's base classes and nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dni.interfaces.base import Interface
from dni.methods.cut import TimeCutContext
from dni.methods.in_time import TimeMethod


class EchoInterface(Interface):
    """The gradient that came for an earlier state stands for that of today's, `decay` times as large."""

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
    """The last gradient again."""

    decay: float = 0.5  # [factor] on the last gradient

    def interface(self, cut: TimeCutContext) -> Interface:
        return EchoInterface(self.decay)


class Unmarked(Echo):
    """It lacks @dataclass."""


@dataclass
class Unfinished(TimeMethod):
    """It lacks `interface`."""
