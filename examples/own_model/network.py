"""A model of one's own: a function whose typed parameters are settings, and that returns any nn.Module."""

from __future__ import annotations

from torch import Tensor, nn

from dni.models import ModelContext


class Network(nn.Module):
    """Symbols (B, T) -> scores (B, T, V): residual blocks, and a skip from the embedding to the scores."""

    def __init__(self, inputs: int, symbols: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(blocks))
        self.scores = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        first = self.embed(x)
        hidden = first
        for block in self.blocks:
            hidden = hidden + block(hidden)
        scores: Tensor = self.scores(hidden + first)
        return scores


def build(context: ModelContext, width: int = 64, blocks: int = 4) -> nn.Module:
    """Return the network for the symbols of the data; `dni-train` traces it and cuts it before its blocks."""
    return Network(context.input_symbols, context.symbols, width, blocks)
