"""Models of a user that are wrong: parts that give what cannot cross, that do not fit, or that change between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dni.models import ModelContext

WIDTH = 6

#: What a first part makes of its hidden values, by name.
ANSWERS: dict[str, Callable[[Tensor], Any]] = {
    "fine": lambda h: {"a": h, "b": h * 2},
    "none": lambda h: None,
    "list": lambda h: [h, h],
    "string": lambda h: "hidden",
    "nested": lambda h: {"a": {"b": h}},
    "empty": lambda h: {},
    "number": lambda h: {"a": h, "b": 3},
    "complex": lambda h: torch.complex(h, h),
    "one_complex": lambda h: {"a": h, "b": torch.complex(h, h)},
    "sparse": lambda h: h.detach().to_sparse(),
    "scalar": lambda h: h.sum(),
    "fewer": lambda h: {"a": h},
    "other_names": lambda h: {"a": h, "c": h},
    "double": lambda h: {"a": h, "b": h.double()},
    "narrow": lambda h: {"a": h, "b": h[..., :-1]},
}


class First(nn.Module):
    """Symbols (B, T) -> the first answer, and in training from the third step on the later one."""

    def __init__(self, symbols: int, answer: str, later: str) -> None:
        super().__init__()
        self.table, self.answer, self.later, self.steps = nn.Embedding(symbols, WIDTH), answer, later, 0

    def forward(self, x: Tensor) -> Any:
        self.steps += self.training
        return ANSWERS[self.later if self.steps > 2 else self.answer](self.table(x))


class Scores(nn.Module):
    """The sum of all tensors, or of those that it knows, to scores (B, T, V)."""

    def __init__(self, symbols: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.map, self.names = nn.Linear(WIDTH, symbols), names

    def forward(self, x: Any) -> Tensor:
        found = sum(x[name] for name in self.names) if isinstance(x, dict) else x
        scores: Tensor = self.map(found)
        return scores


def two(context: ModelContext, answer: str = "fine", later: str = "") -> list[nn.Module]:
    """A first part that gives `answer` and then `later`, and scores of "a" and "b"."""
    return [First(context.input_symbols, answer, later or answer), Scores(context.symbols, ("a", "b"))]


def misfit(context: ModelContext) -> list[nn.Module]:
    """The second part takes other sizes than the first one gives."""
    return [nn.Embedding(context.input_symbols, WIDTH), nn.Linear(5, context.symbols)]


def whole_numbers(context: ModelContext) -> list[nn.Module]:
    """The scores are no floats."""
    return [nn.Embedding(context.input_symbols, WIDTH), nn.Linear(WIDTH, context.symbols), Rounded()]


class Rounded(nn.Module):
    """Numbers as integers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.long()


def needs_more(context: ModelContext, width: int) -> list[nn.Module]:
    """A parameter has no default."""
    return misfit(context)


def nothing(context: ModelContext) -> Any:
    """It forgets to return the model."""


def a_class(context: ModelContext) -> Any:
    """It returns a class instead of a module."""
    return nn.Linear


def no_parts(context: ModelContext) -> Any:
    """It returns an empty list."""
    return []


def half_a_list(context: ModelContext) -> Any:
    """One of the parts is no module."""
    return [nn.Embedding(context.input_symbols, WIDTH), "scores"]


def dotted(context: ModelContext) -> Any:
    """A name that a part cannot have."""
    return {"first.part": nn.Embedding(context.input_symbols, WIDTH), "scores": nn.Linear(WIDTH, context.symbols)}


def failing(context: ModelContext) -> Any:
    """It raises an error of its own."""
    raise KeyError("width")


def bare(context: ModelContext) -> dict[str, nn.Module]:
    """A part without parameters."""
    first, scores = nn.Embedding(context.input_symbols, WIDTH), nn.Linear(WIDTH, context.symbols)
    return {"first": first, "relu": nn.ReLU(), "scores": scores}


def frozen(context: ModelContext) -> dict[str, nn.Module]:
    """A part whose parameters are not trained."""
    parts = bare(context)
    return {**parts, "relu": nn.Linear(WIDTH, WIDTH).requires_grad_(False)}


def tied(context: ModelContext) -> dict[str, nn.Module]:
    """The scores have the weights of the embedding."""
    parts = {**bare(context), "relu": nn.Linear(WIDTH, WIDTH)}
    parts["scores"].weight = parts["first"].weight
    return parts
