"""A series made by code, a recurrent model with a cell of one's own, and the forecast to beat.

python forecast.py     writes mackey_glass.csv into the current folder and prints the error of the naive forecast
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dni.models import Model, ModelContext
from dni.ranges import one_or_more
from dni.recurrent import Recurrent
from dni.types import Inputs, State

#: Rows of the file, rows from an input to its label, and the share of the rows that is the test part.
ROWS, HORIZON, TEST = 12_000, 12, 0.1


class Cell(Recurrent):
    """h <- (1 - z) h + z tanh(W [x, h] + b), with the gate z = sigmoid(V [x, h] + c)."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.own, self.before = nn.Linear(inputs, 2 * units), nn.Linear(units, 2 * units, bias=False)

    def initial_state(self, batch: int) -> State:
        """Return zeros (B, units)."""
        return (self.own.weight.new_zeros(batch, self.units),)

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, inputs) -> (B, T, units) and the state after the window."""
        (hidden,) = state or self.initial_state(len(x))
        steps = []
        for own in self.own(x).unbind(1):
            gate, new = (own + self.before(hidden)).chunk(2, dim=1)
            hidden = torch.lerp(hidden, new.tanh(), gate.sigmoid())
            steps.append(hidden)
        return torch.stack(steps, dim=1), (hidden,)


@dataclass
class Forecaster(Model):
    """Two cells and a linear layer: numbers (B, T, D) -> numbers (B, T, O)."""

    units: int = one_or_more(32)  # [units] of a cell

    reads: ClassVar[Inputs | None] = Inputs.vectors
    carries_state: ClassVar[bool] = True

    def build(self, context: ModelContext) -> nn.Sequential:
        (inputs,) = context.input_shape
        first, second = Cell(inputs, self.units), Cell(self.units, self.units)
        layers = {"cell1": first, "cell2": second, "output": nn.Linear(self.units, context.symbols)}
        return nn.Sequential(OrderedDict(layers))


def mackey_glass(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    """Return the delay equation x' = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x, by Euler steps, with noise."""
    steps, delay, warm = 10, 170, 3000
    x = np.full(delay + warm + rows * steps, 1.2)
    for t in range(delay, len(x) - 1):
        late = x[t - delay]
        x[t + 1] = x[t] + (0.2 * late / (1 + late**10) - 0.1 * x[t]) / steps
    series = x[delay + warm :: steps]
    return series + np.random.default_rng(seed).normal(scale=0.02, size=len(series))


def naive_error(series: np.ndarray, horizon: int = HORIZON) -> float:
    """Return the root of the mean squared error, on the test part and in deviations, of 'it stays as it is'."""
    test = int(len(series) * TEST)
    deviation = series[: len(series) - 2 * test].std()  # the last tenth but one is for validation
    part = series[-test:] / deviation
    return float(np.sqrt(np.square(part[horizon:] - part[:-horizon]).mean()))


def write(path: Path, rows: int = ROWS) -> float:
    """Write the series as a CSV file, and return the error of the naive forecast."""
    series = mackey_glass(rows)
    path.write_text("x\n" + "".join(f"{value:.6f}\n" for value in series))
    return naive_error(series)


if __name__ == "__main__":
    print(f"naive forecast: rmse {write(Path('mackey_glass.csv')):.3f}")
