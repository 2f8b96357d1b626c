"""Models of a user that are functions: a module that is traced, and a list of parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.models import ModelContext


class Block(nn.Module):
    """A residual map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.map = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.map(self.norm(x)))


class Network(nn.Module):
    """Symbols (B, T) -> scores (B, T, V), with a skip from the embedding to the scores over all blocks."""

    def __init__(self, inputs: int, symbols: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.scores = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        first = self.embed(x)
        hidden = first
        for block in self.blocks:
            hidden = block(hidden)
        scores: Tensor = self.scores(hidden + first)
        return scores


def network(context: ModelContext, width: int = 6, blocks: int = 3) -> nn.Module:
    """A whole network, which is traced and cut before its blocks."""
    return Network(context.input_symbols, context.symbols, width, blocks)


def parts(context: ModelContext, width: int = 6) -> list[nn.Module]:
    """A list of parts."""
    return [nn.Embedding(context.input_symbols, width), Block(width), Block(width), nn.Linear(width, context.symbols)]


def untyped(context: ModelContext, width=6) -> nn.Module:  # type: ignore[no-untyped-def]
    """A parameter has no type."""
    return Network(context.input_symbols, context.symbols, width, 1)


def droppy(context: ModelContext, width: int = 6) -> nn.Module:
    """It computes something else in evaluation, and is no row of layers."""
    whole = Network(context.input_symbols, context.symbols, width, 2)
    whole.blocks.append(nn.Dropout(0.5))
    return whole


class Branching(nn.Module):
    """What it computes depends on the data."""

    def __init__(self, inputs: int, symbols: int) -> None:
        super().__init__()
        self.table, self.blocks = nn.Embedding(inputs, symbols), nn.ModuleList([nn.Identity(), nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table(x)
        return found if x.sum() > 0 else -found


def branching(context: ModelContext) -> nn.Module:
    """It cannot be traced."""
    return Branching(context.input_symbols, context.symbols)
