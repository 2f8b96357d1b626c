"""Residual stacks of element-wise recurrent layers, which can be cut into stages between any two blocks."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from dni.errors import ConfigError
from dni.models.language import LanguageModel
from dni.models.lru import LRU
from dni.models.mingru import MinGRU
from dni.models.minlstm import MinLSTM
from dni.ranges import above_zero, below_one
from dni.recurrent import Recurrent, Slopes
from dni.types import State

Cell = enum.Enum("Cell", ["lru", "mingru", "minlstm"])
Mixing = enum.Enum("Mixing", ["gated", "plain"])


class ResidualBlock(Recurrent):
    """x + dropout(mix(gelu(cell(norm(x))))): a layer norm, a recurrent layer, and a map of each time step.

    Gated (Orvieto et al. 2023), mix(v) = (W v + b) sigmoid(W' v + b'); plain, it is a network with one hidden layer of
    twice the units. The state is that of the cell.

    Args:
        cell: from (B, T, units) to (B, T, units).
        units: D, size of a time step.
        mixing: of its features after the cell.
        dropout: share of what is added to x that is set to zero in training.
    """

    def __init__(self, cell: Recurrent, units: int, mixing: Mixing = Mixing.gated, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.cell, self.mixing = nn.LayerNorm(units), cell, mixing
        self.mix = nn.Linear(units, 2 * units)
        self.out = nn.Linear(2 * units, units) if mixing is Mixing.plain else None
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def initial_state(self, batch: int) -> State:
        return self.cell.initial_state(batch)

    def traced(self) -> tuple[nn.Module, ...]:
        return self.cell.traced()

    def slopes(self, outputs: Sequence[Tensor], state: State) -> Slopes | None:
        return self.cell.slopes(outputs, state)

    def make_identity(self) -> None:
        """Zero what is added to x: W and b of the gated map, all of the last layer of the plain one. Gates stay."""
        last, rows = (self.mix, self.mix.out_features // 2) if self.out is None else (self.out, self.out.out_features)
        with torch.no_grad():
            last.weight[:rows] = 0.0
            last.bias[:rows] = 0.0

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, units) -> (B, T, units) and the state after the window; an empty state is zeros."""
        y, after = self.cell(self.norm(x), state)
        y = self.mix(gelu(y))
        y = glu(y, dim=-1) if self.out is None else self.out(gelu(y))
        return x + self.drop(y), after


@dataclass
class Residual(LanguageModel):
    """Stacked `ResidualBlock` layers, with dropout inside each."""

    cell: Cell = Cell.lru  # the recurrent layer of a block: LRU (Orvieto et al. 2023), MinGRU or MinLSTM (Feng et al.
    # 2024), each with model.units units
    mixing: Mixing = Mixing.gated  # the map of each time step after the cell. gated: a linear layer and its gate;
    # plain: a network with one hidden layer
    smallest: float = below_one(0.0)  # [size] cell=lru: least abs(lambda) at first; near 1 for long memories
    largest: float = above_zero(1.0)  # [size] cell=lru: largest abs(lambda) at first

    name: ClassVar[str] = "residual"

    def layer(self) -> Recurrent:
        return ResidualBlock(self._cell(), self.units, self.mixing, self.dropout)

    def _cell(self) -> Recurrent:
        if self.cell is Cell.lru:
            return LRU(self.units, self.units, smallest=self.smallest, largest=self.largest)
        return (MinGRU if self.cell is Cell.mingru else MinLSTM)(self.units, self.units)

    def check(self, run: Any) -> None:
        super().check(run)
        if not self.smallest < self.largest <= 1:
            raise ConfigError(
                f"model.smallest={self.smallest} and model.largest={self.largest} must bound a ring inside the unit "
                "circle: set model.smallest below model.largest, and model.largest at most 1"
            )
