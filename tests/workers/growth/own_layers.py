"""Models of a user that are lists of layers: one whose blocks can begin as the identity, and one whose cannot."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.models import ModelContext


class Block(nn.Module):
    """A residual map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.map = nn.LayerNorm(width), nn.Linear(width, width)

    def make_identity(self) -> None:
        """Zero what is added."""
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.map(self.norm(x)))


class Wrong(Block):
    """It says that it begins as the identity, and does not."""

    def make_identity(self) -> None:
        nn.init.ones_(self.map.bias)


class Silent(nn.Module):
    """It cannot begin as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.map(x))


def _row(context: ModelContext, width: int, middle: list[nn.Module]) -> list[nn.Module]:
    return [nn.Embedding(context.input_symbols, width), *middle, nn.Linear(width, context.symbols)]


def blocks(context: ModelContext, width: int = 6, count: int = 3) -> list[nn.Module]:
    """Blocks between an embedding and scores, without names."""
    return _row(context, width, [Block(width) for _ in range(count)])


def wrong(context: ModelContext, width: int = 6, count: int = 3) -> list[nn.Module]:
    """Blocks that change the outputs."""
    return _row(context, width, [Wrong(width) for _ in range(count)])


def silent(context: ModelContext, width: int = 6, count: int = 3) -> list[nn.Module]:
    """Layers without the method."""
    return _row(context, width, [Silent(width) for _ in range(count)])
