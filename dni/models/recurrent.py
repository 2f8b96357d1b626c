"""Recurrent layers, and the character language model made of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.recurrent import Chain, Recurrent
from dni.types import State


class LSTM(Recurrent):
    """One LSTM layer. Its state is (hidden, cell), each (1, B, units)."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, units, batch_first=True)

    def initial_state(self, batch: int) -> State:
        """Zeros for hidden and cell."""
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
        """Zeros."""
        return (_zeros(self.rnn, batch),)

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """(B, T, inputs) -> (B, T, units) and the state after the window; an empty state is zeros."""
        y, hidden = self.rnn(x, state[0] if state else None)
        return y.contiguous(), (hidden,)


def _zeros(rnn: nn.RNNBase, batch: int) -> Tensor:
    weight = rnn.weight_hh_l0
    assert isinstance(weight, Tensor)
    return torch.zeros(1, batch, rnn.hidden_size, device=weight.device, dtype=weight.dtype)


_LAYERS: dict[str, type[LSTM] | type[GRU]] = {"lstm": LSTM, "gru": GRU}


def language_model(
    kind: Literal["lstm", "gru"], symbols: int, units: int, layers: int, *, inputs: int | None = None
) -> Chain:
    """Symbols (B, T) int64, below `inputs` (default V) -> scores of the next symbol (B, T, V), V = `symbols`.

    Its layers are named embedding, lstm1 ... lstmN (or gru1 ... gruN) and softmax (a linear layer: the
    scores, before the softmax itself). Raises ConfigError for another kind or less than one layer.
    """
    if kind not in _LAYERS:
        raise ConfigError(f"no recurrent layer named {kind!r}: use {' or '.join(_LAYERS)}")
    if layers < 1:
        raise ConfigError(f"a language model needs at least one recurrent layer, not {layers}")
    named: dict[str, nn.Module] = {"embedding": nn.Embedding(inputs or symbols, units)}
    named |= {f"{kind}{i}": _LAYERS[kind](units, units) for i in range(1, layers + 1)}
    named["softmax"] = nn.Linear(units, symbols)
    return Chain(OrderedDict(named))
