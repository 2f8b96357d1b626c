"""Models and data with a planted fault, for the checks to find."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni.data import Data, DataContext, Window
from dni.data.text import Text
from dni.models import Model, ModelContext
from tests.plugin.counting import Counter


class _Doubled(torch.autograd.Function):
    """tanh, whose backward pass forgets a square."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (1 - y)


class WrongTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = _Doubled.apply(x)  # type: ignore[no-untyped-call]
        return found


@dataclass
class WrongBackward(Counter):
    """A model whose second layer has a wrong backward pass."""

    def build(self, context: ModelContext) -> nn.Sequential:
        whole = super().build(context)
        whole.squashed = WrongTanh()
        return whole


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


@dataclass
class RandomForward(Counter):
    """A model that adds noise, also in evaluation."""

    def build(self, context: ModelContext) -> nn.Sequential:
        whole = super().build(context)
        whole.squashed = Noisy()
        return whole


class Borrows(nn.Module):
    """A linear layer that also multiplies by the weight of an earlier layer, which is not its own."""

    def __init__(self, lender: nn.Linear, classes: int) -> None:
        super().__init__()
        self.map, self.lenders = nn.Linear(lender.out_features, classes), [lender]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.map(x + x @ self.lenders[0].weight)
        return found


@dataclass
class Borrowed(Model):
    """A model whose last layer uses the weight of the first without saying so."""

    width: int = 6  # [units] of the layers

    def build(self, context: ModelContext) -> nn.Sequential:
        (inputs,) = context.input_shape
        lender = nn.Linear(self.width, self.width)
        layers: dict[str, nn.Module] = {
            "first": nn.Linear(inputs, self.width), "second": lender, "tanh": nn.Tanh(),
            "borrows": Borrows(lender, context.symbols),
        }  # fmt: skip
        return nn.Sequential(OrderedDict(layers))


class Keeps(nn.Module):
    """Leaves its input where a later layer finds it."""

    def __init__(self, shelf: dict[str, Tensor]) -> None:
        super().__init__()
        self.shelf = shelf

    def forward(self, x: Tensor) -> Tensor:
        self.shelf["kept"] = x
        return x


class Finds(nn.Module):
    def __init__(self, shelf: dict[str, Tensor]) -> None:
        super().__init__()
        self.shelf = shelf

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shelf["kept"]


@dataclass
class SideChannel(Borrowed):
    """A skip connection that is no part of any layer's output."""

    def build(self, context: ModelContext) -> nn.Sequential:
        (inputs,) = context.input_shape
        shelf: dict[str, Tensor] = {}
        layers: dict[str, nn.Module] = {
            "first": nn.Linear(inputs, self.width), "keeps": Keeps(shelf), "second": nn.Linear(self.width, self.width),
            "finds": Finds(shelf), "scores": nn.Linear(self.width, context.symbols),
        }  # fmt: skip
        return nn.Sequential(OrderedDict(layers))


@dataclass
class Dead(Counter):
    """A model whose ReLU is never above zero."""

    def build(self, context: ModelContext) -> nn.Sequential:
        whole = super().build(context)
        whole.squashed = nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU())
        nn.init.constant_(whole.squashed[0].bias, -100.0)
        return whole


@dataclass
class TwoAhead(Text):
    """A text whose labels are the symbols two steps later."""

    def open(self, context: DataContext) -> Data:
        found = super().open(context)
        source, following = found.train, found.train.next

        def moved() -> Window:
            window = following()
            symbols = torch.cat([window.inputs, window.labels[:, -1:]], dim=1)
            beyond = torch.zeros_like(symbols[:, :1])
            labels = torch.cat([symbols, beyond], dim=1)[:, 2 : 2 + window.inputs.shape[1]]
            return window._replace(labels=labels)

        source.next = moved  # type: ignore[method-assign]
        return found
