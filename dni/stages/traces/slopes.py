"""Derivatives of the state after a window: by autograd, or by the closed form of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from dni.recurrent import Recurrent
from dni.types import State


class Call(NamedTuple):
    """One call of a traced part in a window."""

    output: Tensor  #: (B, T, R) or (B, R) pre-activations without graph, R a multiple of H
    edge: GradientEdge | None  #: of these; unlike the tensor, it stays when they are changed in place. None: no graph
    input: Tensor | None  #: (B, T, D) or (B, D), as it was given; None: a parameter of each unit


#: The calls of every traced part in a window, by the part's key.
Calls = Mapping[str, Sequence[Call]]


class WindowSlopes(NamedTuple):
    """Derivatives of a state of m tensors after a window. If complex, m is 1, for a state of one complex number."""

    decay: Tensor  #: (B, m, m, H): of tensor i by tensor j before the window
    parts: dict[str, Tensor]  #: (B, T, m, R) by what a part returned, in all its calls


def by_unit(state: Tensor) -> Tensor:
    """Return one tensor of a state as (B, H)."""
    return state.movedim(-2, 0).flatten(1)


def by_autograd(entering: State, leaving: State, calls: Calls, weights: Tensor | None = None) -> WindowSlopes:
    """Go back once for each tensor of the leaving state: units do not act on each other, so their sum has all slopes.

    `weights` (H,) are those of the sum; None: 1.
    """
    each = [call for own in calls.values() for call in own if call.edge is not None]
    sources = [*entering, *(call.edge for call in each)]
    shapes = [*(s.shape for s in entering), *(call.output.shape for call in each)]
    found = []
    for end in leaving:
        total = (by_unit(end) if weights is None else by_unit(end) * weights.to(end)).sum()
        slopes = torch.autograd.grad(total, sources, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        found.append([end.new_zeros(s) if g is None else g for g, s in zip(slopes, shapes, strict=True)])
    m = len(entering)
    decay = torch.stack([torch.stack([by_unit(s) for s in slopes[:m]], dim=1) for slopes in found], dim=1)
    left = zip(*(slopes[m:] for slopes in found), strict=True)  # call by call
    parts = {
        key: torch.cat([torch.stack([in_time(s) for s in next(left)], dim=2) for _ in own], dim=1)
        for key, own in calls.items()
        if own[0].edge is not None
    }
    return WindowSlopes(decay, parts)


@torch.no_grad()
def in_closed_form(layer: Recurrent, entered: State, reset: Tensor | None, calls: Calls) -> WindowSlopes | None:
    """Ask the layer; None: it leaves the derivatives to autograd. Rows in `reset` do not depend on the state before."""
    slopes = layer.slopes([own[0].output for own in calls.values()], entered)
    if slopes is None:
        return None
    decay = slopes.decay.expand(entered[0].shape[-2], -1)
    if reset is not None:
        decay = decay.masked_fill(reset.unsqueeze(1), 0.0)
    parts = {key: each.unsqueeze(2) for key, each in zip(calls, slopes.parts, strict=True)}
    return WindowSlopes(decay[:, None, None], parts)


def of_real_tensors(slopes: WindowSlopes, sizes: Mapping[str, int]) -> WindowSlopes:
    """Return complex slopes as those of two tensors, by the real numbers that the parts return: `sizes` of them."""
    if not slopes.decay.is_complex():
        return slopes
    decay = slopes.decay[:, 0, 0]
    real = torch.stack([torch.stack([decay.real, -decay.imag], 1), torch.stack([decay.imag, decay.real], 1)], 1)
    return WindowSlopes(real, {key: _in_pairs(each, sizes[key]) for key, each in slopes.parts.items()})


def in_time(tensor: Tensor) -> Tensor:
    """Return (B, R) as (B, 1, R), and (B, T, R) unchanged."""
    return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor


def _in_pairs(slopes: Tensor, size: int) -> Tensor:
    """Return (B, T, 1, R / 2) complex slopes by complex numbers, or (B, T, 1, R) by real ones, as real (B, T, 2, R)."""
    by_real = torch.cat([slopes.real, slopes.imag], dim=2)
    if size == slopes.shape[-1]:
        return by_real
    return torch.cat([by_real, torch.cat([-slopes.imag, slopes.real], dim=2)], dim=3)
