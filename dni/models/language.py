"""Character language models: an embedding, layers of one kind, and a softmax layer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from dni.errors import ConfigError
from dni.models.base import Layered, ModelContext
from dni.models.mingru import MinGRU
from dni.models.minlstm import MinLSTM
from dni.models.recurrent import GRU, LSTM
from dni.models.transformer import CausalBlock, SegmentTransformer, draw_weights
from dni.ranges import one_or_more
from dni.recurrent import Chain, Recurrent
from dni.types import Inputs


@dataclass
class LanguageModel(Layered):
    """Symbols (B, T) int64 -> scores of the next symbol (B, T, V).

    The layers are named embedding, lstm1 ... lstmN (after the name of the model), and softmax, a linear layer that
    returns the scores before the softmax itself. For vectors (B, T, D) the first layer is a linear one, named inputs.
    If labels are numbers, the last layer is named output.
    """

    reads: ClassVar[Inputs | None] = Inputs.symbols
    reads_vectors: ClassVar[bool] = True
    carries_state: ClassVar[bool] = True

    @abstractmethod
    def layer(self) -> Recurrent:
        """Return one layer of `units` units, to stand between embedding and softmax."""

    def build(self, context: ModelContext) -> Chain:
        named: dict[str, nn.Module] = {
            **_first_layer(context, self.units),
            **self.hidden_layers(),
            context.last_layer: nn.Linear(self.units, context.symbols),
        }
        return Chain(OrderedDict(named))

    def hidden_layers(self) -> dict[str, nn.Module]:
        """Return all layers between embedding and softmax, by name."""
        return {f"{self.name}{i}": self.layer() for i in range(1, self.layers + 1)}


def _first_layer(context: ModelContext, units: int) -> dict[str, nn.Module]:
    if context.input_shape:
        return {"inputs": nn.Linear(context.input_shape[-1], units)}
    return {"embedding": nn.Embedding(context.input_symbols or context.symbols, units)}


@dataclass
class Stack(LanguageModel):
    """A stack of recurrent layers with dropout1 ... dropoutN-1 between them."""

    def hidden_layers(self) -> dict[str, nn.Module]:
        named: dict[str, nn.Module] = {}
        for i in range(1, self.layers + 1):
            named[f"{self.name}{i}"] = self.layer()
            if self.dropout and i < self.layers:
                named[f"dropout{i}"] = nn.Dropout(self.dropout)
        return named

    def check(self, run: Any) -> None:
        super().check(run)
        if self.dropout and self.layers == 1:
            raise ConfigError(
                f"model.dropout={self.dropout} applies between the layers of model={self.name}, and there is only one: "
                "set model.layers=2 or more (or model.dropout=0)"
            )


@dataclass
class Lstm(Stack):
    """Stacked `LSTM` layers."""

    name: ClassVar[str] = "lstm"

    def layer(self) -> Recurrent:
        return LSTM(self.units, self.units)


@dataclass
class Gru(Stack):
    """Stacked `GRU` layers."""

    name: ClassVar[str] = "gru"

    def layer(self) -> Recurrent:
        return GRU(self.units, self.units)


@dataclass
class MinGru(Stack):
    """Stacked `MinGRU` layers."""

    name: ClassVar[str] = "mingru"

    def layer(self) -> Recurrent:
        return MinGRU(self.units, self.units)


@dataclass
class MinLstm(Stack):
    """Stacked `MinLSTM` layers."""

    name: ClassVar[str] = "minlstm"

    def layer(self) -> Recurrent:
        return MinLSTM(self.units, self.units)


@dataclass
class Transformer(LanguageModel):
    """Stacked `SegmentTransformer` layers, with dropout inside each, and a layer norm, `norm`, before the last layer.

    The first weights are those of GPT-2 (`dni.models.transformer.draw_weights`).
    """

    heads: int = one_or_more(4)  # [heads] of attention; must divide model.units
    memory: int = one_or_more(32)  # [time steps] earlier inputs that a layer keeps and attends to

    name: ClassVar[str] = "transformer"

    def layer(self) -> Recurrent:
        return SegmentTransformer(self.units, self.heads, self.memory, self.dropout)

    def hidden_layers(self) -> dict[str, nn.Module]:
        return {**super().hidden_layers(), "norm": nn.LayerNorm(self.units)}

    def build(self, context: ModelContext) -> Chain:
        built = super().build(context)
        draw_weights(built, self.layers)
        return built

    def block(self, shape: tuple[int, ...], blocks: int) -> nn.Module:
        layers = [SegmentTransformer(shape[0], self.heads, self.memory) for _ in range(blocks)]
        made = nn.Sequential(*map(CausalBlock, layers))
        draw_weights(made, blocks)
        return made

    def check(self, run: Any) -> None:
        super().check(run)
        if self.units % self.heads:
            raise ConfigError(
                f"model.heads={self.heads} does not divide model.units={self.units}: "
                f"set model.units={math.ceil(self.units / self.heads) * self.heads}, say"
            )
