"""Values and gradients as tensors of a frame: "value" for one tensor, "value.NAME" for each of several."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dni.named_tensors import UNNAMED, Value, named

VALUE, GRADIENT = "value", "gradient"

#: Tensors that stages compute with; the CPU reads the others first.
ON_DEVICE = (VALUE, GRADIENT)


def frame_tensors(role: str, value: Value) -> dict[str, Tensor]:
    """Return the tensors of a value by their names in a frame; those without a gradient (None) are left out."""
    found = named(value).items()
    return {frame_name(role, name): tensor for name, tensor in found if tensor is not None}


def frame_name(role: str, name: str) -> str:
    """Return the name in a frame of a tensor of a value."""
    return role if name == UNNAMED else f"{role}.{name}"


def value_in(role: str, tensors: Mapping[str, Tensor]) -> Value | None:
    """Return the value of a frame; None if it has none."""
    if role in tensors:
        return tensors[role]
    start = f"{role}."
    return {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)} or None


def without(role: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the other tensors of a frame."""
    return {name: each for name, each in tensors.items() if role_of(name) != role}


def role_of(name: str) -> str:
    """Return what a tensor of a frame is."""
    return name.partition(".")[0]
