"""Target gradients at the cuts in time: pure functions of windows that have been run.

A window t maps the state s_{t-1} that enters it to the state s_t that leaves it, and has a loss L_t, summed over batch
and time. g_t (B, F) is the synthetic gradient that the cut answers for s_t, zero in rows whose sequence ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dni.predictors.base import Predictor
from dni.recurrent import pack, unpack
from dni.types import State


class Passage(NamedTuple):
    """The graph of one window, from leaves to ends, and the gradients that enter it there."""

    entering: State  #: leaves that require a gradient
    output: Tensor
    leaving: State
    output_gradient: Tensor | None  #: dL_t/d output; None: zero
    synthetic: Tensor  #: g_t, (B, F)


def mixed_targets(windows: Sequence[Passage], mix: float) -> list[Tensor]:
    """The target gradient (B, F) of the state that enters each of M windows in a row, from one backward pass.

        G_{t-1} = dL_t/ds_{t-1} + J_t^T [(1 - mix) g_t + mix G_t],    J_t = ds_t/ds_{t-1},    G = g at the last cut

    These are the lambda-returns of TD(lambda) for gradients (Pemberton and Costa 2024, arXiv 2401.07044; there learned
    with eligibility traces, here backward over M windows). mix = 0 bootstraps in every cut (Jaderberg et al. 2017,
    section 2.1); mix = 1 is backpropagation through the M windows, bootstrapped only at their end.
    """
    targets: list[Tensor] = []
    later = windows[-1].synthetic
    for window in reversed(windows):
        later = _backward(window, torch.lerp(window.synthetic, later, mix))
        targets.insert(0, later)
    return targets


def _backward(window: Passage, state_gradient: Tensor) -> Tensor:
    """dL_t/ds_{t-1} + J_t^T times a gradient of s_t; parameter gradients are left alone."""
    ends, gradients = list(window.leaving), list(unpack(state_gradient, window.leaving))
    if window.output_gradient is not None:
        ends.append(window.output)
        gradients.append(window.output_gradient)
    entering = list(window.entering)
    return pack(torch.autograd.grad(ends, entering, gradients, allow_unused=True, materialize_grads=True))


def auxiliary_gradient(head: Predictor, state: Tensor, synthetic: Tensor, over: Tensor, weight: float) -> Tensor:
    """The gradient of the auxiliary loss with respect to the state (B, F) that enters a window:

        d/ds_{t-1} of  weight |a(s_{t-1}) - g_t|^2,  summed over features and the rows that are not `over` (B,)

    for a head a that foretells the synthetic gradient at the window's end (Jaderberg et al. 2017, section 2.1: the
    prediction of future synthetic gradients as an auxiliary task). g_t is a constant here.
    """
    leaf = state.detach().requires_grad_()
    with torch.enable_grad():
        distance = (head(leaf, None) - synthetic).pow(2).sum(-1)
        loss = weight * distance.masked_fill(over, 0.0).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient
