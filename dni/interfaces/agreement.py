"""The law of a correction's weight: less while corrections overshoot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dni.metrics.fit import cosine

#: Change of the logarithm of the share at a cosine of 1, per residual.
RATE = 0.1

#: The smallest share.
LEAST = 1e-3


@dataclass
class Agreement:
    """The share of beta that is in use, by whether residuals agree with the corrections that their windows have seen.

    For the residual r_s of step s and the newest residual r_q that was applied before step s ran,

        log share <- min(0, max(log LEAST, log share + RATE cos(mean r_s, mean r_q)))

    where the means are over the rows. With a delay of n steps, q = s - n - 1 if a residual arrives at every step. On a
    quadratic loss, delayed corrections begin to diverge where they oscillate with a period of 4 n + 2 steps; from there
    on the cosine is below zero. The same test of successive gradients adapts learning rates (Jacobs 1988).
    """

    log_share: float = 0.0  #: from log LEAST to 0
    newest: Tensor | None = None  #: mean of the newest residual that was applied, (D,) or (C, H, W)

    @property
    def share(self) -> float:
        """The factor on beta, from LEAST to 1."""
        return math.exp(self.log_share)

    def compare(self, residual: Tensor, seen: Tensor | None) -> None:
        """Take a residual (B, T, D), (B, D) or (B, C, H, W) that is applied now, and the mean that its window saw."""
        self.newest = residual.mean(dim=(0, 1) if residual.dim() == 3 else 0)
        if seen is not None:
            moved = self.log_share + RATE * cosine(self.newest, seen.to(residual.device))
            self.log_share = min(0.0, max(math.log(LEAST), moved))
