"""A model one of whose layers works much longer than the others, with few parameters."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dni.models import Model, ModelContext
from dni.types import Inputs

UNITS = 32


class Repeated(nn.Module):
    """One linear map, `times` times in a row."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.map = times, nn.Linear(UNITS, UNITS)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.map(x))
        return x


@dataclass
class SlowThird(Model):
    """An embedding and four layers, of which `slow` takes longer than all others together."""

    times: int = 60  # [times] that it runs its map

    reads: ClassVar[Inputs | None] = Inputs.symbols

    def build(self, context: ModelContext) -> nn.Sequential:
        layers: dict[str, nn.Module] = {
            "embedding": nn.Embedding(context.input_symbols, UNITS),
            "first": nn.Linear(UNITS, UNITS),
            "slow": Repeated(self.times),
            "last": nn.Linear(UNITS, UNITS),
            "scores": nn.Linear(UNITS, context.symbols),
        }
        return nn.Sequential(OrderedDict(layers))
