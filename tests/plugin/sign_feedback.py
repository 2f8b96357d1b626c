"""A custom method in depth: the sign of the true gradient, at a fixed size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dni.interfaces.base import Interface, TrueInterface
from dni.methods.base import CutContext, DepthMethod


class SignInterface(TrueInterface):
    """Wait for the true gradient, and return `strength` times its sign."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        return self.strength * super().gradient(step, value, labels, done).sign()


@dataclass
class SignFeedback(DepthMethod):
    """Sign feedback: stages receive only the sign of the gradient."""

    strength: float = 0.01  # [size] absolute value of every element of the gradient

    def interface(self, cut: CutContext) -> Interface:
        return SignInterface(self.strength)


class Unmarked(SignFeedback):
    """A class without @dataclass."""


@dataclass
class Unfinished(DepthMethod):
    """A class without `interface`."""
