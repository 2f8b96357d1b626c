"""Recurrent layers: LSTM and GRU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.recurrent import Recurrent
from dni.types import State


class LSTM(Recurrent):
    """One LSTM layer. Its state is (hidden, cell), each (1, B, units)."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, units, batch_first=True)

    def initial_state(self, batch: int) -> State:
        """Return zeros for hidden and cell."""
        return _zeros(self.rnn, batch), _zeros(self.rnn, batch)

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, inputs) -> (B, T, units) and the state after the window; an empty state is zeros."""
        y, (hidden, cell) = self.rnn(x, state or None)
        return y.contiguous(), (hidden, cell)


class GRU(Recurrent):
    """One GRU layer. Its state is (hidden,), of shape (1, B, units)."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(inputs, units, batch_first=True)

    def initial_state(self, batch: int) -> State:
        """Return zeros."""
        return (_zeros(self.rnn, batch),)

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, inputs) -> (B, T, units) and the state after the window; an empty state is zeros."""
        y, hidden = self.rnn(x, state[0] if state else None)
        return y.contiguous(), (hidden,)


def _zeros(rnn: nn.RNNBase, batch: int) -> Tensor:
    weight = rnn.weight_hh_l0
    assert isinstance(weight, Tensor)
    return torch.zeros(1, batch, rnn.hidden_size, device=weight.device, dtype=weight.dtype)
