"""The minimal LSTM. It is linear in its state, so that a window runs as a parallel scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dni.models.scan import gated_slopes, scan
from dni.recurrent import Recurrent, Slopes
from dni.types import State


class MinLSTM(Recurrent):
    """The minimal LSTM (Feng et al. 2024, arXiv 2410.01201). Gates and candidate depend on the input alone:

        h_t = f_t / (f_t + i_t) h_{t-1} + i_t / (f_t + i_t) c_t
        f_t = sigmoid(W_f x_t + b_f),    i_t = sigmoid(W_i x_t + b_i),    c_t = W_c x_t + b_c

    The state is (hidden,), of shape (1, B, units).
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.forget, self.input, self.candidate = (nn.Linear(inputs, units) for _ in range(3))

    def initial_state(self, batch: int) -> State:
        """Return zeros."""
        return (self.candidate.weight.new_zeros(1, batch, self.units),)

    def traced(self) -> tuple[nn.Module, ...]:
        return self.forget, self.input, self.candidate

    def slopes(self, outputs: Sequence[Tensor], state: State) -> Slopes:
        forget, taken, candidate = outputs
        share = softplus(-forget) - softplus(-taken)
        keep, take = torch.sigmoid(-share), torch.sigmoid(share)
        decay, by_share, by_candidate = gated_slopes(keep, take, candidate, state[0][0])
        return Slopes(decay, (-by_share * torch.sigmoid(-forget), by_share * torch.sigmoid(-taken), by_candidate))

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, inputs) -> (B, T, units) and the state after the window; an empty state is zeros."""
        (hidden,) = state or self.initial_state(len(x))
        # i / (f + i) is the sigmoid of log i - log f, where log f = -softplus(-f).
        share = softplus(-self.forget(x)) - softplus(-self.input(x))
        y = scan(torch.sigmoid(-share), torch.sigmoid(share) * self.candidate(x), hidden[0])
        return y, (y[:, -1].unsqueeze(0),)
