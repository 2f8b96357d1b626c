"""Which example comes when."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class EpochSampler:
    """All of `count` examples once a pass: shuffled anew by (seed, pass), or, without `shuffle`, always as they are."""

    def __init__(self, count: int, *, seed: int = 0, shuffle: bool) -> None:
        self.count, self.seed, self.shuffle = count, seed, shuffle
        self._latest: tuple[int, Tensor] = (-1, torch.empty(0))

    def of(self, number: int) -> Tensor:
        """The examples' order (count,) int64 in pass `number` = 0, 1, ...; that of the latest pass is kept."""
        if self._latest[0] != number:
            self._latest = number, self._made(number)
        return self._latest[1]

    def _made(self, number: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.from_numpy(np.random.default_rng((self.seed, number)).permutation(self.count))
