"""Deep models whose scale from layer to layer is known: sound ones, and ones with a planted explosion."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni.models import Model, ModelContext


class Times(nn.Module):
    """Multiplies by a number, and so does its backward pass."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Sawtooth(Times):
    """The fractional part of so many times x: below 1, with a slope of `factor`."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.remainder(self.factor * x, 1.0)


def hidden(width: int) -> nn.Sequential:
    """A layer that keeps the scale of values and of gradients (He et al. 2015)."""
    linear = nn.Linear(width, width)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.ReLU())


@dataclass
class Deep(Model):
    """`first`, then `layers` hidden ones, with a planted layer behind half of them, and scores."""

    width: int = 64  # [units] of the layers
    layers: int = 24  # [layers] hidden ones
    factor: float = 1.0  # [factor] of the planted layer
    every: bool = False  # plant one behind each hidden layer
    steep: bool = False  # the planted layer is a sawtooth

    def build(self, context: ModelContext) -> nn.Sequential:
        planted = Sawtooth if self.steep else Times
        named: dict[str, nn.Module] = {"first": nn.Linear(context.input_shape[0], self.width)}
        for at in range(1, self.layers + 1):
            named[f"hidden{at}"] = hidden(self.width)
            if self.factor != 1.0 and (self.every or at == self.layers // 2):
                named[f"planted{at}"] = planted(self.factor)
        return nn.Sequential(OrderedDict({**named, "scores": nn.Linear(self.width, context.symbols)}))
