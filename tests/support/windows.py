"""Gradients of a sequence as a whole, and window by window with the state's gradient passed back at each cut."""

from __future__ import annotations

import torch
from torch import Tensor

from dni.recurrent import Recurrent
from dni.types import State


def whole_gradients(layer: Recurrent, x: Tensor, weight: Tensor, state: State) -> tuple[Tensor, list[Tensor]]:
    """Run the sequence as one window. Return its output, and the gradients of (output * weight).sum() with respect to
    input, state and parameters."""
    leaves = [x.clone().requires_grad_(), *(s.clone().requires_grad_() for s in state)]
    y, _ = layer(leaves[0], tuple(leaves[1:]))
    return y.detach(), list(
        torch.autograd.grad((y * weight).sum(), [*leaves, *layer.parameters()], materialize_grads=True)
    )


def windowed_gradients(
    layer: Recurrent, x: Tensor, weight: Tensor, state: State, window: int
) -> tuple[Tensor, list[Tensor]]:
    """As `whole_gradients`, in windows: each has its own graph and passes the gradient of its first state back."""
    runs = []
    for part, part_weight in zip(torch.split(x, window, dim=1), torch.split(weight, window, dim=1), strict=True):
        leaves = [part.clone().requires_grad_(), *(s.detach().requires_grad_() for s in state)]
        y, state = layer(leaves[0], tuple(leaves[1:]))
        runs.append((leaves, y, state, part_weight))
    parameters = list(layer.parameters())
    state_gradients: list[Tensor] = [torch.zeros_like(s) for s in state]
    sums = [torch.zeros_like(p) for p in parameters]
    inputs: list[Tensor] = []
    for leaves, y, last_state, part_weight in reversed(runs):
        gradients = torch.autograd.grad([y, *last_state], [*leaves, *parameters], [part_weight, *state_gradients])
        inputs.insert(0, gradients[0])
        state_gradients = list(gradients[1 : len(leaves)])
        sums = [s + g for s, g in zip(sums, gradients[len(leaves) :], strict=True)]
    outputs = torch.cat([y.detach() for _, y, _, _ in runs], dim=1)
    return outputs, [torch.cat(inputs, dim=1), *state_gradients, *sums]
