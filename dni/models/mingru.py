"""The minimal GRU. It is linear in its state, so that a window runs as a parallel scan."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.recurrent import Recurrent
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

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, inputs) -> (B, T, units) and the state after the window; an empty state is zeros."""
        (hidden,) = state or self.initial_state(len(x))
        gate = self.gate(x)
        # sigmoid(-g) is 1 - sigmoid(g) without the cancellation.
        y = linear_scan(torch.sigmoid(-gate), torch.sigmoid(gate) * self.candidate(x), hidden[0])
        return y, (y[:, -1].unsqueeze(0),)


def linear_scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Return h_t = decay_t h_{t-1} + drive_t for t = 1 ... T, with h_0 = `initial`.

    `decay`, `drive` and the result are (B, T, D), `initial` is (B, D). The scan takes ceil(log2 T) passes over the
    window (Hillis and Steele 1986). Before each pass, `drive_t` is the state after the last 1, 2, 4, ... steps from
    zero, and `decay_t` the product of their decays. For decays in [0, 1] nothing overflows, and products that underflow
    to zero are negligible.
    """
    drive = torch.cat([drive[:, :1] + decay[:, :1] * initial.unsqueeze(1), drive[:, 1:]], dim=1)
    span, steps = 1, drive.shape[1]
    while span < steps:
        late = decay[:, span:]
        drive = torch.cat([drive[:, :span], drive[:, span:] + late * drive[:, :-span]], dim=1)
        decay = torch.cat([decay[:, :span], late * decay[:, :-span]], dim=1)
        span *= 2
    return drive
