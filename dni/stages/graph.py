"""The graph of a window between its forward and its backward pass, and the resulting gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dni.misuse import refuse_gradient
from dni.named_tensors import Value, floating, like, named
from dni.types import State


class Gradients(NamedTuple):
    """Results of a backward pass: dL/d activation for the previous stage, dL/d state (B, F) for the previous window."""

    activation: Value | None
    state: Tensor | None


class Reply(NamedTuple):
    """A target for the previous stage."""

    step: int
    gradient: Value  #: dL/d activation of that step


class Graph(NamedTuple):
    """The graph of one window: its leaves (`input`, `entering`) and its ends (`output`, `leaving`)."""

    input: Value | None  #: None: the input needs no gradient
    entering: State
    output: Value
    leaving: State


def fresh_input(activation: Value, *, gradient: bool) -> tuple[Value, Value | None]:
    """Return a module's input, and the leaves that receive its gradient (None: no gradient)."""
    leaves = {name: each.detach().requires_grad_(gradient) for name, each in floating(activation).items()}
    # clones: the first layer may modify its input in place, which neither a leaf nor the sender's memory allows
    copies = {name: leaves[name].clone() if name in leaves else t.detach() for name, t in named(activation).items()}
    return like(copies, activation), like(leaves, activation) if leaves and gradient else None


def gradient_of(leaf: Tensor) -> Tensor:
    """Return the gradient of a leaf, or zeros if the backward pass did not reach it."""
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
