"""Linear recurrences over a whole window at once, in a number of passes that grows with its logarithm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Return h_t = decay_t h_{t-1} + drive_t for t = 1 ... T, with h_0 = `initial`.

    `decay`, `drive` and the result are (B, T, D), `initial` is (B, D). The scan takes ceil(log2 T) passes over the
    window (Hillis and Steele 1986). Before each pass, `drive_t` is the state after the last 1, 2, 4, ... steps from
    zero, and `decay_t` the product of their decays. For decays in [0, 1] nothing overflows, and products that underflow
    to zero are negligible.
    """
    drive = torch.cat([drive[:, :1] + decay[:, :1] * initial.unsqueeze(1), drive[:, 1:]], dim=1)
    span, steps = 1, drive.shape[1]
    while span < steps:
        late = decay[:, span:]
        drive = torch.cat([drive[:, :span], drive[:, span:] + late * drive[:, :-span]], dim=1)
        decay = torch.cat([decay[:, :span], late * decay[:, :-span]], dim=1)
        span *= 2
    return drive


def scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Return the same as `linear_scan`, in O(T) on a CPU, with a backward pass that is a scan, too.

    `decay` is (B, T, D), or (B, 1, D) if it is the same at all steps; all may be complex. It has no second derivative.
    """
    kind = torch.promote_types(torch.promote_types(decay.dtype, drive.dtype), initial.dtype)
    return _Scan.apply(*(tensor.to(kind) for tensor in (decay, drive, initial)))  # type: ignore[no-any-return,no-untyped-call]


class _Scan(torch.autograd.Function):
    """With r_t = g_t + conj(decay_{t+1}) r_{t+1}, for a gradient g of h: r is that of drive, r_t conj(h_{t-1}) that of
    decay_t, and conj(decay_1) r_1 that of h_0.
    """

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
        states = run_scan(decay, drive, initial)
        ctx.save_for_backward(decay, initial, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, initial, states = ctx.saved_tensors
        decay = decay.conj().resolve_conj()
        later = decay.flip(1).roll(1, 1)  # of steps 1, T, T - 1, ..., 2; the first meets a zero
        back = run_scan(later, gradient.flip(1), torch.zeros_like(initial)).flip(1)
        before = torch.cat([initial.unsqueeze(1), states[:, :-1]], dim=1)
        by_decay = back * before.conj()
        return by_decay.sum_to_size(decay.shape), back, decay[:, 0] * back[:, 0]


def run_scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Compute `scan` without a graph: step by step on a CPU, else in ceil(log2 T) passes."""
    if drive.device.type != "cpu":
        return doubling_scan(decay, drive, initial)
    state, states, steps = initial, list[Tensor](), drive.shape[1]
    decays = decay.expand(-1, steps, -1).unbind(1)
    for factor, added in zip(decays, drive.unbind(1), strict=True):
        state = torch.addcmul(added, factor, state)
        states.append(state)
    return torch.stack(states, dim=1)


def doubling_scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Compute `scan` in ceil(log2 T) passes; those of a constant decay need only its squares."""
    if decay.shape[1] > 1:
        return linear_scan(decay, drive, initial)
    states = torch.cat([drive[:, :1] + decay * initial.unsqueeze(1), drive[:, 1:]], dim=1)
    span, steps = 1, drive.shape[1]
    while span < steps:
        states = torch.cat([states[:, :span], states[:, span:] + decay * states[:, :-span]], dim=1)
        decay = decay * decay
        span *= 2
    return states


def gated_slopes(keep: Tensor, take: Tensor, candidate: Tensor, initial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate the last state of h_t = keep_t h_{t-1} + take_t candidate_t, with keep_t = 1 - take_t.

    All are (B, T, D), `initial` is (B, D). Return the derivatives by the initial state, (B, D), by the logits of take_t
    and by the candidates, both (B, T, D).
    """
    keep = keep.to(initial.dtype)
    state, before, reached, reach = initial, list[Tensor](), list[Tensor](), torch.ones_like(initial)
    for factor, added in zip(keep.unbind(1), (take * candidate).to(keep.dtype).unbind(1), strict=True):
        before.append(state)
        state = torch.addcmul(added, factor, state)
    for factor in reversed(keep.unbind(1)):
        reached.append(reach)  # from step t to the end
        reach = reach * factor
    by_candidate = torch.stack(reached[::-1], dim=1) * take
    return reach, (candidate - torch.stack(before, dim=1)) * by_candidate * keep, by_candidate
