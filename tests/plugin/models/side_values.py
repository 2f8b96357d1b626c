"""Models whose stages exchange tensors of many kinds: some without rows, some unused, one a bare parameter."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dni import Recurrent
from dni.models import Model, ModelContext
from dni.types import Inputs, State
from tests.plugin.models import skips

Tensors = dict[str, Tensor]


class Start(nn.Module):
    """Symbols (B, T) -> the same tensor twice, one that nobody uses, the symbols, and which steps may see which."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(symbols, width)

    def forward(self, x: Tensor) -> Tensors:
        hidden = self.table(x)
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return {"hidden": hidden, "skip": hidden, "unused": hidden * 2, "symbols": x.short(), "seen": seen}


class Carry(Recurrent):
    """A GRU of the hidden values; a table of the symbols, which no hidden value leads to, and a scale without rows."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)
        self.table, self.scale = nn.Embedding(symbols, width), nn.Parameter(torch.linspace(0.5, 1.5, width))

    def initial_state(self, batch: int) -> State:
        return (self.scale.new_zeros(1, batch, len(self.scale)),)

    def forward(self, x: Tensors, state: State = ()) -> tuple[Tensors, State]:
        hidden, after = self.gru(x["hidden"], *(state or self.initial_state(len(x["hidden"]))))
        table = self.table(x["symbols"].long())
        return {**x, "hidden": hidden, "table": table, "scale": self.scale}, (after,)


class Average(nn.Module):
    """Means over the steps that are seen, of values that are scaled here and passed on as well."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensors) -> Tensors:
        values = torch.tanh(self.map(x["hidden"])) * x["scale"] + x["table"]
        weights = x["seen"] / x["seen"].sum(dim=1, keepdim=True)
        return {**x, "hidden": weights.to(values.dtype) @ values}


class Scores(nn.Module):
    """Scores (B, T, V)."""

    def __init__(self, width: int, symbols: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, symbols)

    def forward(self, x: Tensors) -> Tensor:
        scores: Tensor = self.map((x["hidden"] + x["skip"]) * x["scale"] + x["table"])
        return scores


class Unlike(nn.Module):
    """It gives other tensors in training than in evaluation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensors) -> Tensors:
        hidden = self.map(x["hidden"])
        return {"hidden": hidden, "noise": x["skip"]} if self.training else {**x, "hidden": hidden}


class Pairs(nn.Module):
    """Scores of symbols (B, T); a trace of it keeps B, T and the width as numbers."""

    def __init__(self, symbols: int, scores: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.scores = nn.Linear(width, scores)

    def forward(self, x: Tensor) -> Tensor:
        first = hidden = self.embed(x)
        for each in self.maps:
            halves = hidden.view(x.shape[0], x.shape[1], 2, -1)
            hidden = torch.tanh(each(halves.flip(2).reshape(first.shape)))
        scores: Tensor = self.scores(hidden + first)
        return scores


def pairs(context: ModelContext, width: int = 6) -> nn.Module:
    """A whole network, which is traced."""
    return Pairs(context.input_symbols, context.symbols, width)


@dataclass
class SideValues(Model):
    """Four layers."""

    width: int = 6  # [units] of the hidden values

    reads: ClassVar[Inputs | None] = Inputs.symbols
    carries_state: ClassVar[bool] = True

    def build(self, context: ModelContext) -> nn.Sequential:
        layers: dict[str, nn.Module] = {
            "start": Start(context.input_symbols, self.width),
            "carry": Carry(context.input_symbols, self.width),
            "average": Average(self.width),
            "scores": Scores(self.width, context.symbols),
        }
        return nn.Sequential(OrderedDict(layers))


@dataclass
class UnlikeValues(SideValues):
    """The second part gives other tensors in training."""

    carries_state: ClassVar[bool] = False

    def build(self, context: ModelContext) -> nn.Sequential:
        start, scores = Start(context.input_symbols, self.width), skips.Scores(self.width, context.symbols)
        return nn.Sequential(start, Unlike(self.width), Unlike(self.width), scores)
