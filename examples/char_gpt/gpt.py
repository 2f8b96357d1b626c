"""A small GPT of characters, as a list of parts: embeddings, blocks, scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni.models import ModelContext


class Embedding(nn.Module):
    """Symbols (B, T) -> (B, T, D): the sum of a token's and a position's vector."""

    def __init__(self, symbols: int, context: int, width: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(symbols, width), nn.Embedding(context, width)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.token(x) + self.position(places)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Causal self-attention and a perceptron, each on the normed input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.expand, self.contract = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        by_head = (batch, steps, self.heads, width // self.heads)
        query, key, value = (each.view(by_head).transpose(1, 2) for each in self.query_key_value(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.project(mixed.transpose(1, 2).reshape(batch, steps, width))  # type: ignore[no-any-return]


class Scores(nn.Module):
    """(B, T, D) -> scores (B, T, V)."""

    def __init__(self, width: int, symbols: int) -> None:
        super().__init__()
        self.norm, self.map = nn.LayerNorm(width, bias=False), nn.Linear(width, symbols, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(self.norm(x))  # type: ignore[no-any-return]


def parts(
    context: ModelContext,
    layers: int = 4,
    width: int = 128,
    heads: int = 4,
    context_length: int = 64,
    deviation: float = 0.02,
) -> dict[str, nn.Module]:
    """Return the parts of the model with GPT-2's initial weights: N(0, deviation^2), less in residual projections."""
    found: dict[str, nn.Module] = {"embedding": Embedding(context.input_symbols, context_length, width)}
    found |= {f"block{n}": Block(width, heads) for n in range(layers)}
    found["scores"] = Scores(width, context.symbols)
    for part in found.values():
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1:
                residual = name.startswith(("project", "contract"))
                nn.init.normal_(parameter, std=deviation / math.sqrt(2 * layers) if residual else deviation)
    return found
