"""Multilayer perceptrons for vectors, and for one character at a time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dni.models.base import Layered, ModelContext
from dni.recurrent import Chain
from dni.types import Inputs


def mlp(inputs: int, units: int, layers: int, outputs: int) -> Chain:
    """Return an MLP (..., inputs) -> (..., outputs) with `layers` hidden layers of `units` relu units each.

    The layers are named layer1, relu1, ..., layerN, reluN and output.
    """
    named = _hidden(inputs, units, layers)
    named["output"] = nn.Linear(units if layers else inputs, outputs)
    return Chain(OrderedDict(named))


@dataclass
class Mlp(Layered):
    """Symbols (B, T) int64 -> scores of the next symbol (B, T, V).

    The model is stateless and sees one symbol at a time. Its layers are named embedding, layer1, relu1, ..., layerN,
    reluN and softmax (a linear layer). With dropout, dropoutN follows reluN. For vectors (B, T, D) there is no
    embedding. If labels are numbers, the last layer is named output.
    """

    name: ClassVar[str] = "mlp"
    reads: ClassVar[Inputs | None] = Inputs.symbols
    reads_vectors: ClassVar[bool] = True

    def build(self, context: ModelContext) -> Chain:
        named: dict[str, nn.Module] = {}
        if not context.input_shape:
            named["embedding"] = nn.Embedding(context.input_symbols or context.symbols, self.units)
        inputs = context.input_shape[-1] if context.input_shape else self.units
        named |= _hidden(inputs, self.units, self.layers, self.dropout)
        named[context.last_layer] = nn.Linear(self.units, context.symbols)
        return Chain(OrderedDict(named))


def _hidden(inputs: int, units: int, layers: int, dropout: float = 0.0) -> dict[str, nn.Module]:
    named: dict[str, nn.Module] = {}
    for i in range(1, layers + 1):
        named[f"layer{i}"] = nn.Linear(inputs if i == 1 else units, units)
        named[f"relu{i}"] = nn.ReLU()
        if dropout:
            named[f"dropout{i}"] = nn.Dropout(dropout)
    return named
