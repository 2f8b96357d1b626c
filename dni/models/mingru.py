"""The minimal GRU. It is linear in its state, so that a window runs as a parallel scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni.models.scan import gated_slopes, linear_scan
from dni.recurrent import Recurrent, Slopes
from dni.types import State


class MinGRU(Recurrent):
    """The minimal GRU (Feng et al. 2024, arXiv 2410.01201). Its gate and candidate depend on the input alone:

        h_t = (1 - z_t) h_{t-1} + z_t c_t,    z_t = sigmoid(W_z x_t + b_z),    c_t = W_c x_t + b_c

    The recurrence does not use logarithms: candidates may be negative, and the state starts at zero, where a logarithm
    has no gradient. The state is (hidden,), of shape (1, B, units).
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.gate, self.candidate = nn.Linear(inputs, units), nn.Linear(inputs, units)

    def initial_state(self, batch: int) -> State:
        """Return zeros."""
        return (self.gate.weight.new_zeros(1, batch, self.units),)

    def traced(self) -> tuple[nn.Module, ...]:
        return self.gate, self.candidate

    def slopes(self, outputs: Sequence[Tensor], state: State) -> Slopes:
        gate, candidate = outputs
        decay, by_gate, by_candidate = gated_slopes(torch.sigmoid(-gate), torch.sigmoid(gate), candidate, state[0][0])
        return Slopes(decay, (by_gate, by_candidate))

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, inputs) -> (B, T, units) and the state after the window; an empty state is zeros."""
        (hidden,) = state or self.initial_state(len(x))
        gate = self.gate(x)
        # sigmoid(-g) is 1 - sigmoid(g) without the cancellation.
        y = linear_scan(torch.sigmoid(-gate), torch.sigmoid(gate) * self.candidate(x), hidden[0])
        return y, (y[:, -1].unsqueeze(0),)
