"""Derivatives of an element-wise state, and checks that a layer which names traced parts is element-wise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from dni.errors import UsageError
from dni.recurrent import Recurrent, UnitParameter
from dni.types import State


def by_unit(state: Tensor) -> Tensor:
    """Return one tensor of a state as (B, H)."""
    return state.movedim(-2, 0).flatten(1)


def slopes_of(end: Tensor, sources: Sequence[Tensor | GradientEdge], shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return the derivatives of a number by tensors and edges of its graph; zeros where it does not depend on one."""
    found = torch.autograd.grad(end, sources, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
    return [end.new_zeros(shape) if each is None else each for each, shape in zip(found, shapes, strict=True)]


def refuse_untraceable(name: str, layer: Recurrent) -> None:
    """Raise UsageError for a recurrent layer that names no traced parts, or wrong ones."""
    kind, parts, own = f"layer {name!r} ({type(layer).__name__})", layer.traced(), {*layer.modules()}
    if not parts:
        raise UsageError(
            f"{kind} names no weights in `traced`, as units of its state act on each other: use MinGRU, MinLSTM or LRU "
            "(model=mingru, minlstm or residual), or time=truncated or synthetic"
        )
    for part in parts:
        if part not in own or not isinstance(part, nn.Linear | UnitParameter):
            raise UsageError(
                f"{kind} names a {type(part).__name__} in `traced`: name parts of the layer that are an nn.Linear or a "
                "dni.UnitParameter"
            )
    shapes = [tuple(s.shape) for s in layer.initial_state(1)]
    if len({*shapes}) > 1 or any(shape[:-2] != (1,) * len(shape[:-2]) for shape in shapes):
        raise UsageError(f"{kind} has a state of shapes {shapes}: a traced one has tensors of one shape, (1, B, H)")


def refuse_mixing(
    name: str,
    layer: Recurrent,
    found: Sequence[Sequence[Tensor]],
    sources: Sequence[Tensor | GradientEdge],
    shapes: Sequence[torch.Size],
    leaving: State,
) -> None:
    """Raise UsageError if units of the state act on each other, which would make the traces wrong.

    `found` are the derivatives of the sum over the units. Weighted by random numbers, one for each unit, the units must
    have them times these numbers.
    """
    numbers = torch.rand(leaving[0].shape[-1], generator=torch.Generator().manual_seed(0)) + 0.5
    for end, slopes in zip(leaving, found, strict=True):
        own = numbers.to(end)
        weighted = slopes_of((by_unit(end) * own).sum(), sources, shapes)
        for got, slope in zip(weighted, slopes, strict=True):
            expected = slope * own.to(slope).repeat(slope.shape[-1] // len(own))
            if (got - expected).abs().max() > torch.finfo(slope.dtype).eps ** 0.5 * slope.abs().max():
                raise UsageError(
                    f"layer {name!r} ({type(layer).__name__}): units of its state act on each other, so its `traced` "
                    "is wrong: leave it out, and use time=truncated or synthetic"
                )
