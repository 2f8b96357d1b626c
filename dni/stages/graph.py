"""The graph of a window between its forward and its backward pass, and the resulting gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dni.types import State


class Gradients(NamedTuple):
    """Results of a backward pass: dL/d activation for the previous stage, dL/d state (B, F) for the previous window."""

    activation: Tensor | None
    state: Tensor | None


class Reply(NamedTuple):
    """A target for the previous stage."""

    step: int
    gradient: Tensor  #: dL/d activation of that step


class Graph(NamedTuple):
    """The graph of one window: its leaves (`input`, `entering`) and its ends (`output`, `leaving`)."""

    input: Tensor | None  #: None: the input needs no gradient
    entering: State
    output: Tensor
    leaving: State


def gradient_of(leaf: Tensor) -> Tensor:
    """Return the gradient of a leaf, or zeros if the backward pass did not reach it."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
