"""The character language model: an embedding, layers of one kind, and a softmax layer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from dni.errors import ConfigError
from dni.models.mingru import MinGRU
from dni.models.recurrent import GRU, LSTM
from dni.models.transformer import SegmentTransformer
from dni.recurrent import Chain, Recurrent


def language_model(
    kind: str,
    symbols: int,
    units: int,
    layers: int,
    *,
    inputs: int | None = None,
    heads: int = 4,
    memory: int = 32,
    dropout: float = 0.0,
) -> Chain:
    """Symbols (B, T) int64, below `inputs` (default V) -> scores of the next symbol (B, T, V), V = `symbols`.

    `kind` is lstm, gru, mingru or transformer; only a transformer layer has `heads` and a `memory` in steps. The
    layers are named embedding, lstm1 ... lstmN (after the kind) and softmax (a linear layer: the scores, before the
    softmax itself). `dropout` is between the layers, as dropout1 ... dropoutN-1, or inside those of a transformer.
    Raises ConfigError for another kind, less than one layer, or sizes a transformer cannot have.
    """
    make: dict[str, Callable[[], Recurrent]] = {
        "lstm": lambda: LSTM(units, units),
        "gru": lambda: GRU(units, units),
        "mingru": lambda: MinGRU(units, units),
        "transformer": lambda: SegmentTransformer(units, heads, memory, dropout),
    }
    if kind not in make:
        raise ConfigError(f"no recurrent layer named {kind!r}: use {', '.join(make)}")
    if layers < 1:
        raise ConfigError(f"a language model needs at least one recurrent layer, not {layers}")
    named: dict[str, nn.Module] = {"embedding": nn.Embedding(inputs or symbols, units)}
    for i in range(1, layers + 1):
        named[f"{kind}{i}"] = make[kind]()
        if dropout and i < layers and kind != "transformer":
            named[f"dropout{i}"] = nn.Dropout(dropout)
    named["softmax"] = nn.Linear(units, symbols)
    return Chain(OrderedDict(named))
