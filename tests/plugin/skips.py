"""A user's model that sends several tensors from stage to stage: hidden values, a skip over two cuts, and a mask."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dni.models import Model, ModelContext
from dni.types import Inputs

Tensors = dict[str, Tensor]


class Embed(nn.Module):
    """Symbols (B, T) -> hidden (B, T, D), the same as a skip, and a mask (B, T) of the symbols that are not 0."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(symbols, width)

    def forward(self, x: Tensor) -> Tensors:
        hidden = self.table(x)
        return {"hidden": hidden, "skip": hidden * 0.5, "mask": x != 0}


class Mix(nn.Module):
    """A map of the hidden values where the mask is set; the skip and the mask are passed on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensors) -> Tensors:
        hidden = torch.tanh(self.map(x["hidden"])) * x["mask"].unsqueeze(-1)
        return {**x, "hidden": hidden}


class Scores(nn.Module):
    """Scores (B, T, V) of the hidden values and the skip."""

    def __init__(self, width: int, symbols: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, symbols)

    def forward(self, x: Tensors) -> Tensor:
        scores: Tensor = self.map(x["hidden"] + x["skip"])
        return scores


@dataclass
class Skips(Model):
    """Two maps between an embedding and the scores, and a skip over both."""

    width: int = 6  # [units] of the hidden values

    reads: ClassVar[Inputs | None] = Inputs.symbols

    def build(self, context: ModelContext) -> nn.Sequential:
        layers: dict[str, nn.Module] = {
            "embed": Embed(context.input_symbols, self.width),
            "first": Mix(self.width),
            "second": Mix(self.width),
            "scores": Scores(self.width, context.symbols),
        }
        return nn.Sequential(OrderedDict(layers))


class Masked(nn.Module):
    """The mask (B, T) of an embedding, alone."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embed = Embed(symbols, width)

    def forward(self, x: Tensor) -> Tensors:
        return {"mask": self.embed(x)["mask"]}


class OfMask(nn.Module):
    """Scores (B, T, V) of a mask."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.table = nn.Embedding(2, symbols)

    def forward(self, x: Tensors) -> Tensor:
        scores: Tensor = self.table(x["mask"].long())
        return scores


@dataclass
class MaskAlone(Skips):
    """It sends no tensor that has a gradient."""

    def build(self, context: ModelContext) -> nn.Sequential:
        layers: dict[str, nn.Module] = {
            "embed": Masked(context.input_symbols, self.width),
            "scores": OfMask(context.symbols),
        }
        return nn.Sequential(OrderedDict(layers))
