"""Backpropagation through the stages: each waits for the true gradient of its step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dni.interfaces.base import Interface, TrueInterface
from dni.methods.base import DepthMethod
from dni.methods.cut import CutContext


@dataclass
class Backprop(DepthMethod):
    """Every stage waits for the gradient of its output; training equals that of the unsplit network."""

    name: ClassVar[str] = "backprop"
    locked: ClassVar[bool] = True

    def interface(self, cut: CutContext) -> Interface:
        return TrueInterface()
