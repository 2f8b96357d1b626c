"""A value that crosses a cut in depth: one tensor, or a dict of named tensors.

Floating-point tensors have gradients, each its own. Integer and bool tensors (masks, positions) travel along without.
A gradient is a value, too: one tensor, or a dict of those tensors of the value that have a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

#: A tensor or a dict[str, Tensor]. Interfaces and predictors of a single tensor are typed with `Tensor` instead.
Value: TypeAlias = Any

#: The name of the tensor in a value that is one tensor.
UNNAMED = ""


def named(value: Value) -> dict[str, Tensor]:
    """Return the tensors of a value by name; a single tensor is `UNNAMED`."""
    return {UNNAMED: value} if isinstance(value, Tensor) else value


def like(tensors: dict[str, Tensor], value: Value) -> Value:
    """Return the inverse of `named`, for tensors that belong to `value`."""
    return tensors[UNNAMED] if isinstance(value, Tensor) else tensors


def map_tensors(call: Callable[[Tensor], Tensor], value: Value) -> Value:
    """Apply a function to every tensor of a value."""
    return call(value) if isinstance(value, Tensor) else {name: call(tensor) for name, tensor in value.items()}


def floating(value: Value) -> dict[str, Tensor]:
    """Return the tensors that have gradients, by name."""
    return {name: tensor for name, tensor in named(value).items() if tensor.is_floating_point()}


def batch_of(value: Value) -> int:
    """Return B, the first size of every tensor."""
    return len(next(iter(named(value).values())))


def is_value(value: object) -> bool:
    """Return whether an object is a tensor, or a dict of at least one named tensor."""
    if isinstance(value, dict):
        return bool(value) and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in value.items())
    return isinstance(value, Tensor)
