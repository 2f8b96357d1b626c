"""A custom model and data set: learn the parity of a stream of vectors with a leaky sum and two linear layers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dni import Recurrent
from dni.data import Data, DataContext, DataSet, PassSource, Window, in_passes
from dni.models import Model, ModelContext
from dni.types import Inputs, State


class LeakySum(Recurrent):
    """s_t = decay s_t-1 + W x_t."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.map, self.decay = nn.Linear(inputs, units), nn.Parameter(torch.full((units,), 0.5))

    def initial_state(self, batch: int) -> State:
        return (self.decay.new_zeros(1, batch, len(self.decay)),)

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        (total,) = state or self.initial_state(len(x))
        mapped, sums, total = self.map(x), [], total[0]
        for t in range(x.shape[1]):
            total = self.decay * total + mapped[:, t]
            sums.append(total)
        return torch.stack(sums, dim=1), (total.unsqueeze(0),)


@dataclass
class Counter(Model):
    """Leaky sums, tanh and a linear layer."""

    width: int = 6  # [units] number of leaky sums

    reads: ClassVar[Inputs | None] = Inputs.vectors
    carries_state: ClassVar[bool] = True

    def build(self, context: ModelContext) -> nn.Sequential:
        (inputs,) = context.input_shape
        layers: dict[str, nn.Module] = {
            "sums": LeakySum(inputs, self.width),
            "squashed": nn.Tanh(),
            "scores": nn.Linear(self.width, context.symbols),
        }
        return nn.Sequential(OrderedDict(layers))


class BitsSource(PassSource):
    """Vectors of random bits. The label is the parity of the newest two vectors."""

    symbols = 2

    def __init__(self, batch: int, window: int, sequence: int, bits: int, seed: int) -> None:
        drawn = torch.randint(2, (batch, sequence, bits), generator=torch.Generator().manual_seed(seed))
        ones = drawn.sum(dim=2)
        self.inputs, self.window_size = drawn.float(), window
        self.labels = (ones + torch.cat([torch.zeros_like(ones[:, :1]), ones[:, :-1]], dim=1)) % 2
        self.windows_per_pass = sequence // window

    def window(self, n: int) -> Window:
        place = n % self.windows_per_pass
        part = slice(place * self.window_size, (place + 1) * self.window_size)
        reset, done = (torch.full((len(self.inputs),), place == at) for at in (0, self.windows_per_pass - 1))
        return Window(self.inputs[:, part], self.labels[:, part], reset, done)


@dataclass
class Bits(DataSet):
    """Sequences of vectors of random bits, one per stream, with others for validation and test."""

    bits: int = 3  # [bits] length of a vector

    gives: ClassVar[Inputs] = Inputs.vectors

    def open(self, context: DataContext) -> Data:
        train, valid, test = (
            BitsSource(self.batch, context.window, self.sequence or 24, self.bits, context.seed + part)
            for part in range(3)
        )
        return in_passes("bits", train, valid, test=lambda: test, input_shape=(self.bits,))


@dataclass
class Stateless(Counter):
    """A model that carries state, but declares that it does not."""

    carries_state: ClassVar[bool] = False


@dataclass
class Narrow(Counter):
    """A model with the wrong number of scores."""

    def build(self, context: ModelContext) -> nn.Sequential:
        return super().build(ModelContext(context.symbols + 1, context.input_symbols, context.input_shape))


@dataclass
class Jagged(Counter):
    """A model whose layers do not fit each other."""

    def build(self, context: ModelContext) -> nn.Sequential:
        whole = super().build(context)
        whole.scores = nn.Linear(self.width + 1, context.symbols)
        return whole


@dataclass
class Whole(Counter):
    """A model that is not a sequence of layers."""

    def build(self, context: ModelContext) -> nn.Sequential:
        return LeakySum(context.input_shape[0], self.width)  # type: ignore[return-value]


@dataclass
class Broken(Counter):
    """A model whose `build` raises an error."""

    def build(self, context: ModelContext) -> nn.Sequential:
        raise KeyError("weights")


@dataclass
class Unbuilt(Model):
    """A class without `build`."""


@dataclass
class Closed(DataSet):
    """A class without `open`."""


@dataclass
class Bare(Bits):
    """A data set whose `open` returns a source instead of `Data`."""

    def open(self, context: DataContext) -> Data:
        return BitsSource(self.batch, context.window, 24, self.bits, 0)  # type: ignore[return-value]
