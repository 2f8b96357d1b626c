"""A transformer encoder-decoder that learns to reverse sequences, and its data, made by code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from dni.models import ModelContext

#: Symbols that are no letters: the start of the decoder's input, and the end of its labels.
START, END, LETTERS = 0, 1, 2

#: Number of sequences of each part, and the first seed of its items.
PARTS = {"train": (50_000, 0), "valid": (500, 10**6), "test": (500, 2 * 10**6)}

Named = dict[str, Tensor]


class Reversals(Dataset[tuple[Named, Tensor]]):
    """Random letters, of which number `n` is a function of n, and the same letters from the last to the first."""

    def __init__(self, split: str, letters: int, shortest: int, longest: int) -> None:
        self.size, self.first = PARTS[split]
        self.letters, self.lengths = letters, (shortest, longest + 1)
        self.num_classes = LETTERS + letters

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, n: int) -> tuple[Named, Tensor]:
        generator = torch.Generator().manual_seed(self.first + n)
        length = int(torch.randint(*self.lengths, (), generator=generator))
        source = torch.randint(LETTERS, self.num_classes, (length,), generator=generator)
        start, end = (torch.tensor([symbol]) for symbol in (START, END))
        seen = torch.ones(length, dtype=torch.bool)  # false where the batch is padded
        inputs = {"source": source, "seen": seen, "before": torch.cat([start, source.flip(0)])}
        return inputs, torch.cat([source.flip(0), end])


def data(split: str, letters: int = 8, shortest: int = 3, longest: int = 8) -> Reversals:
    """Return the items of a part."""
    return Reversals(split, letters, shortest, longest)


class Embedding(nn.Module):
    """Symbols of the source (B, S) and before the labels (B, T) -> vectors of both, each with its position's."""

    def __init__(self, symbols: int, longest: int, width: int) -> None:
        super().__init__()
        self.symbol = nn.Embedding(symbols, width)
        self.source_place, self.target_place = (nn.Embedding(longest + 2, width) for _ in range(2))

    def forward(self, x: Named) -> Named:
        memory, hidden = self.symbol(x["source"]), self.symbol(x["before"])
        places = [torch.arange(each.shape[1], device=each.device) for each in (memory, hidden)]
        memory, hidden = memory + self.source_place(places[0]), hidden + self.target_place(places[1])
        return {"memory": memory, "hidden": hidden, "seen": x["seen"]}


class Attention(nn.Module):
    """Attention of several heads from (B, T, D) to (B, S, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, to: Tensor, seen: Tensor | None = None) -> Tensor:
        """Attend to the steps with `seen` (B, S); without it, to those up to the own one."""
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(x), *self.key_value(to).chunk(2, dim=-1))
        )
        mask = None if seen is None else seen[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=seen is None)
        return self.project(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Perceptron(nn.Sequential):
    """A normed input, a hidden layer, and back to the width."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class EncoderBlock(nn.Module):
    """Attention of the source to itself, and a perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attend, self.perceptron = nn.LayerNorm(width), Attention(width, heads), Perceptron(width)

    def forward(self, x: Named) -> Named:
        normed = self.norm(x["memory"])
        memory = x["memory"] + self.attend(normed, normed, x["seen"])
        return {**x, "memory": memory + self.perceptron(memory)}


class DecoderBlock(nn.Module):
    """Causal attention, attention to the source, and a perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross, self.perceptron = Attention(width, heads), Attention(width, heads), Perceptron(width)

    def forward(self, x: Named) -> Named:
        own, cross, memory = self.norms
        normed = own(x["hidden"])
        hidden = x["hidden"] + self.own(normed, normed)
        hidden = hidden + self.cross(cross(hidden), memory(x["memory"]), x["seen"])
        return {**x, "hidden": hidden + self.perceptron(hidden)}


class Scores(nn.Module):
    """Hidden values (B, T, D) -> scores (B, T, V)."""

    def __init__(self, width: int, symbols: int) -> None:
        super().__init__()
        self.norm, self.map = nn.LayerNorm(width), nn.Linear(width, symbols)

    def forward(self, x: Named) -> Tensor:
        return self.map(self.norm(x["hidden"]))  # type: ignore[no-any-return]


def parts(
    context: ModelContext, layers: int = 2, width: int = 64, heads: int = 4, longest: int = 8
) -> dict[str, nn.Module]:
    """Return the parts: embeddings, encoder blocks, decoder blocks, scores."""
    symbols = context.symbols
    encoder = {f"encoder{n}": EncoderBlock(width, heads) for n in range(layers)}
    decoder = {f"decoder{n}": DecoderBlock(width, heads) for n in range(layers)}
    return {"embedding": Embedding(symbols, longest, width), **encoder, **decoder, "scores": Scores(width, symbols)}
