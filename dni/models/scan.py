"""Linear recurrences over a whole window at once, in a number of passes that grows with its logarithm."""

from __future__ import annotations

import torch
from torch import Tensor


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


def constant_scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Return h_t = decay h_{t-1} + drive_t, as `linear_scan` for a decay that is the same at all steps.

    `decay` and `initial` are (B, D), `drive` and the result (B, T, D); all may be complex.
    """
    power = decay.unsqueeze(1)
    drive = torch.cat([drive[:, :1] + power * initial.unsqueeze(1), drive[:, 1:]], dim=1)
    span, steps = 1, drive.shape[1]
    while span < steps:
        drive = torch.cat([drive[:, :span], drive[:, span:] + power * drive[:, :-span]], dim=1)
        power = power * power
        span *= 2
    return drive
