"""A method in depth of a user's own: the sign of the true gradient, at a fixed size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dni.interfaces.base import Interface, TrueInterface
from dni.methods.base import CutContext, DepthMethod


class SignInterface(TrueInterface):
    """The true gradient is waited for; a stage goes back with `strength` times its sign."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        return self.strength * super().gradient(step, value, labels, done).sign()


@dataclass
class SignFeedback(DepthMethod):
    """Sign feedback: stages learn the direction of the gradient alone."""

    strength: float = 0.01  # [size] of every number of the gradient

    def interface(self, cut: CutContext) -> Interface:
        return SignInterface(self.strength)


class Unmarked(SignFeedback):
    """It lacks @dataclass."""


@dataclass
class Unfinished(DepthMethod):
    """It lacks `interface`."""
