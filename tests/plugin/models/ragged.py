"""A user's data set whose windows have other sizes from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dni.data import Data, DataContext, DataSet, PassSource, Window, in_passes

#: Rows and time steps of the windows of a pass.
SIZES = [(8, 6), (8, 4), (6, 6), (3, 5), (8, 6), (1, 3)]


class RaggedSource(PassSource):
    """Random symbols; the label is the symbol before, and every window is a sequence."""

    symbols = input_symbols = 5
    windows_per_pass = len(SIZES)

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def window(self, n: int) -> Window:
        rows, steps = SIZES[n % len(SIZES)]
        drawn = torch.randint(5, (rows, steps + 1), generator=torch.Generator().manual_seed(self.seed + n))
        ends = torch.ones(rows, dtype=torch.bool)
        return Window(drawn[:, 1:], drawn[:, :-1], ends, ends)


@dataclass
class Ragged(DataSet):
    """Six windows for training, and six others for validation."""

    def open(self, context: DataContext) -> Data:
        return in_passes("ragged", RaggedSource(context.seed), RaggedSource(context.seed + 100))
