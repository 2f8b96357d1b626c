"""Checks that a layer which names traced parts is element-wise, and that its closed form is right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.recurrent import Recurrent, UnitParameter
from dni.stages.traces.slopes import WindowSlopes


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


def unlike_numbers(units: int) -> Tensor:
    """Return a random number for each unit, far from zero and never twice the same."""
    return torch.rand(units, generator=torch.Generator().manual_seed(0)) + 0.5


def refuse_mixing(name: str, layer: Recurrent, found: WindowSlopes, weighted: WindowSlopes) -> None:
    """Raise UsageError if units of the state act on each other, which would make the traces wrong.

    `found` are the derivatives of the sum over the units. `weighted` are those of the sum weighted by `unlike_numbers`,
    and must be these numbers times the others.
    """
    numbers = unlike_numbers(found.decay.shape[-1])
    expected = WindowSlopes(
        found.decay * numbers.to(found.decay),
        {key: each * numbers.to(each).repeat(each.shape[-1] // len(numbers)) for key, each in found.parts.items()},
    )
    if not _agree(weighted, expected):
        raise UsageError(
            f"layer {name!r} ({type(layer).__name__}): units of its state act on each other, so its `traced` "
            "is wrong: leave it out, and use time=truncated or synthetic"
        )


def refuse_wrong_slopes(name: str, layer: Recurrent, closed: WindowSlopes, found: WindowSlopes) -> None:
    """Raise UsageError if the closed form of a layer differs from the derivatives that autograd has found."""
    if not _agree(closed, found):
        raise UsageError(
            f"layer {name!r} ({type(layer).__name__}): its `slopes` differ from autograd's derivatives: correct them, "
            "or leave them out"
        )


def _agree(one: WindowSlopes, other: WindowSlopes) -> bool:
    pairs = [(one.decay, other.decay), *((one.parts[key], each) for key, each in other.parts.items())]
    return all(
        (a - b).abs().max() <= max(torch.finfo(t.dtype).eps for t in (a, b)) ** 0.5 * b.abs().max() for a, b in pairs
    )
