"""A window between its forward and its backward pass, and what goes back from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dni.misuse import refuse_gradient
from dni.named_tensors import Value, named
from dni.types import State


class Gradients(NamedTuple):
    """What goes back: dL/d activation for the previous stage, dL/d entering state (B, F) for the previous window."""

    activation: Value | None
    state: Tensor | None


class Reply(NamedTuple):
    """The target that the previous stage gets for one step."""

    step: int
    gradient: Value  #: dL/d activation of that step


class Graph(NamedTuple):
    """One window between its forward and its backward pass: from leaves to ends."""

    input: Value | None  #: None: no gradient of it is wanted
    entering: State
    output: Value
    leaving: State


def gradient_of(leaf: Tensor) -> Tensor:
    """Zeros where nothing flowed back."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def backward_starts(output: Value, gradient: Value | None, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that a backward pass starts from, and their gradients; None stands for zero.

    Raises UsageError for a gradient that is not of its output's shape.
    """
    starts: list[Tensor] = []
    gradients: list[Tensor] = []
    outputs = named(output)
    for name, each in ({} if gradient is None else named(gradient)).items():
        if each is None:
            continue
        if name and not outputs[name].requires_grad:  # passed through from an input without a gradient
            continue
        refuse_gradient(each, outputs[name])
        starts.append(outputs[name])
        gradients.append(each.to(device, outputs[name].dtype))
    return starts, gradients
