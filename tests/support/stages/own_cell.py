"""A user's own element-wise cell: it is not linear, runs step by step, and has a decay of its own for each unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.recurrent import Recurrent, UnitParameter
from dni.types import State


class OwnCell(Recurrent):
    """h_t = tanh(u h_{t-1} + a_t) + c_{t-1} / 2, c_t = r c_{t-1} + sigmoid(g_t) h_t, (a_t, g_t) = W x_t + b.

    The output is V h_t.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.gates, self.out = nn.Linear(inputs, 2 * units), nn.Linear(units, inputs)
        self.keep = UnitParameter(torch.linspace(0.3, 0.9, units))
        self.rest = UnitParameter(torch.linspace(0.9, 0.5, units))

    def initial_state(self, batch: int) -> State:
        zeros = self.gates.weight.new_zeros(1, batch, self.units)
        return zeros, zeros

    def traced(self) -> tuple[nn.Module, ...]:
        return self.gates, self.keep, self.rest

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        (h,), (c,) = state or self.initial_state(len(x))
        keep, rest, outputs = self.keep(len(x)), self.rest(len(x)), []
        for x_t in x.unbind(1):
            a, g = self.gates(x_t).chunk(2, dim=-1)
            before = h
            h = torch.tanh(keep * before + a) + c / 2
            c = rest * c + torch.sigmoid(g) * h
            outputs.append(self.out(h))
        return torch.stack(outputs, dim=1), (h.unsqueeze(0), c.unsqueeze(0))
