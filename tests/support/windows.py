"""A sequence run whole and window by window, with the gradients that cross each cut handed back."""

from __future__ import annotations

import torch
from torch import Tensor

from dni.recurrent import Recurrent
from dni.types import State


def whole_gradients(layer: Recurrent, x: Tensor, weight: Tensor, state: State) -> tuple[Tensor, list[Tensor]]:
    """Output of one window over the sequence; gradients of (output * weight).sum(): input, state, parameters."""
    leaves = [x.clone().requires_grad_(), *(s.clone().requires_grad_() for s in state)]
    y, _ = layer(leaves[0], tuple(leaves[1:]))
    return y.detach(), list(
        torch.autograd.grad((y * weight).sum(), [*leaves, *layer.parameters()], materialize_grads=True)
    )


def windowed_gradients(
    layer: Recurrent, x: Tensor, weight: Tensor, state: State, window: int
) -> tuple[Tensor, list[Tensor]]:
    """The same in windows: each is its own graph, and each passes its entering state's gradient to the one before."""
    runs = []
    for part, part_weight in zip(torch.split(x, window, dim=1), torch.split(weight, window, dim=1), strict=True):
        leaves = [part.clone().requires_grad_(), *(s.detach().requires_grad_() for s in state)]
        y, state = layer(leaves[0], tuple(leaves[1:]))
        runs.append((leaves, y, state, part_weight))
    parameters = list(layer.parameters())
    back: list[Tensor] = [torch.zeros_like(s) for s in state]
    sums = [torch.zeros_like(p) for p in parameters]
    inputs: list[Tensor] = []
    for leaves, y, leaving, part_weight in reversed(runs):
        found = torch.autograd.grad([y, *leaving], [*leaves, *parameters], [part_weight, *back])
        inputs.insert(0, found[0])
        back = list(found[1 : len(leaves)])
        sums = [s + g for s, g in zip(sums, found[len(leaves) :], strict=True)]
    outputs = torch.cat([y.detach() for _, y, _, _ in runs], dim=1)
    return outputs, [torch.cat(inputs, dim=1), *back, *sums]
