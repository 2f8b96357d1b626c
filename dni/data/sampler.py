"""The order of examples in each pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class EpochSampler:
    """An order of `count` examples for each pass: shuffled with (seed, pass), or ascending without `shuffle`."""

    def __init__(self, count: int, *, seed: int = 0, shuffle: bool) -> None:
        self.count, self.seed, self.shuffle = count, seed, shuffle
        self._latest: tuple[int, Tensor] = (-1, torch.empty(0))

    def of(self, number: int) -> Tensor:
        """Return the order (count,) int64 of pass `number` = 0, 1, ... The latest one is cached."""
        if self._latest[0] != number:
            self._latest = number, self._order(number)
        return self._latest[1]

    def _order(self, number: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.from_numpy(np.random.default_rng((self.seed, number)).permutation(self.count))
