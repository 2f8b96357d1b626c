"""A residual stack of which only the top learns: a control for methods that give lower layers credit for the past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dni.models.base import ModelContext
from dni.models.residual import Residual
from dni.recurrent import Chain, Recurrent


@dataclass
class FrozenBelow(Residual):
    """As `Residual`, but all layers below the last recurrent one keep their first weights."""

    name: ClassVar[str] = "frozen"

    def build(self, context: ModelContext) -> Chain:
        chain = super().build(context)
        layers = [*chain]
        top = max(n for n, layer in enumerate(layers) if isinstance(layer, Recurrent))
        for layer in layers[:top]:
            layer.requires_grad_(False)
        return chain
