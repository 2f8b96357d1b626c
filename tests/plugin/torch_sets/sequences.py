"""Sequences of different lengths with masks, as dicts of tensors, and models that send the mask along."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.models import ModelContext

SYMBOLS = 4

Named = dict[str, Tensor]


def drawn(split: str, count: int = 21) -> list[Tensor]:
    """Return sequences of 2 to 7 symbols."""
    generator = torch.Generator().manual_seed(len(split))
    lengths = torch.randint(2, 8, (count,), generator=generator).tolist()
    return [torch.randint(SYMBOLS, (length,), generator=generator) for length in lengths]


def ragged(split: str, classes: int | None = SYMBOLS) -> list[tuple[Named, Tensor]]:
    """Return items whose label at every step is the sum of the whole sequence, modulo 4; the first has none."""
    found = []
    for x in drawn(split):
        labels = ((x.sum() + x) % SYMBOLS).clone()
        labels[0] = -1
        found.append(({"symbols": x, "mask": torch.ones(len(x), dtype=torch.bool)}, labels))
    return found


def plain(split: str, classes: int | None = SYMBOLS) -> list[tuple[Tensor, Tensor]]:
    """Return the same as one tensor, without a mask."""
    return [(inputs["symbols"], labels) for inputs, labels in ragged(split)]


def two_lengths(split: str, classes: int | None = SYMBOLS) -> list[tuple[Named, Tensor]]:
    """Return items with a source of another length than the labels."""
    found = []
    for x in drawn(split):
        y = torch.cat([x, x[:1]]) if len(x) % 2 else x[:-1]
        found.append(({"source": x, "seen": torch.ones(len(x), dtype=torch.bool), "before": y}, y.flip(0)))
    return found


def described(split: str, classes: int | None = SYMBOLS) -> list[tuple[Named, int]]:
    """Return examples of two tensors, with a class each."""
    points = torch.randn(21, 3, generator=torch.Generator().manual_seed(len(split)))
    return [({"left": x, "right": -2 * x[:2]}, int(x.argmax())) for x in points]


class Embedded(nn.Module):
    """Symbols (B, T) -> (B, T, D), beside their mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(SYMBOLS, width)

    def forward(self, x: Named) -> Named:
        return {"hidden": self.table(x["symbols"]), "mask": x["mask"]}


class Attending(nn.Module):
    """Attention to the steps of the mask, and a residual layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.after = nn.Linear(width, width)

    def forward(self, x: Named) -> Named:
        hidden, mask = x["hidden"], x["mask"]
        scores = self.q(hidden) @ self.k(hidden).transpose(1, 2)
        weights = scores.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(-1)
        return {"hidden": hidden + torch.relu(self.after(weights @ self.v(hidden))), "mask": mask}


class Scores(nn.Module):
    """Hidden values (B, T, D) -> scores (B, T, V)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, SYMBOLS)

    def forward(self, x: Named) -> Tensor:
        scores: Tensor = self.linear(x["hidden"])
        return scores


def attention(context: ModelContext, width: int = 8) -> list[nn.Module]:
    return [Embedded(width), Attending(width), Attending(width), Scores(width)]


class Crossed(nn.Module):
    """Attention from the steps before to the source: lengths T and S."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(SYMBOLS, width)

    def forward(self, x: Named) -> Named:
        return {"memory": self.table(x["source"]), "seen": x["seen"], "hidden": self.table(x["before"])}


class Looking(nn.Module):
    """Adds to the hidden values the values of the memory that they attend to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Named) -> Named:
        scores = self.linear(x["hidden"]) @ x["memory"].transpose(1, 2)
        weights = scores.masked_fill(~x["seen"].unsqueeze(1), -torch.inf).softmax(-1)
        return {**x, "hidden": x["hidden"] + weights @ x["memory"]}


def crossing(context: ModelContext, width: int = 8) -> list[nn.Module]:
    return [Crossed(width), Looking(width), Looking(width), Scores(width)]


class Joined(nn.Module):
    """Two tensors of an example as one."""

    def forward(self, x: Named) -> Tensor:
        return torch.cat([x["left"], x["right"]], dim=1)


def joined(context: ModelContext, width: int = 8) -> list[nn.Module]:
    first, *later = (nn.Linear(size, width) for size in (5, width))
    scores = nn.Linear(width, context.symbols)
    return [nn.Sequential(Joined(), first), *(nn.Sequential(nn.Tanh(), each) for each in (*later, scores))]


class Alone(nn.Module):
    """The hidden values without their mask."""

    def forward(self, x: Named) -> Tensor:
        return x["hidden"]


def unmasked(context: ModelContext, width: int = 8) -> dict[str, nn.Module]:
    begin = nn.Sequential(Embedded(width), Attending(width), Alone())
    return {"begin": begin, "middle": nn.Linear(width, width), "scores": nn.Linear(width, context.symbols)}
