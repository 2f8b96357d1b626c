"""A window between its forward and its backward pass, and what goes back from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dni.types import State


class Gradients(NamedTuple):
    """What goes back: dL/d activation for the previous stage, dL/d entering state (B, F) for the previous window."""

    activation: Tensor | None
    state: Tensor | None


class Reply(NamedTuple):
    """The target that the previous stage gets for one step."""

    step: int
    gradient: Tensor  #: dL/d activation of that step


class Graph(NamedTuple):
    """One window between its forward and its backward pass: from leaves to ends."""

    input: Tensor | None  #: None: no gradient of it is wanted
    entering: State
    output: Tensor
    leaving: State


def gradient_of(leaf: Tensor) -> Tensor:
    """Zeros where nothing flowed back."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
