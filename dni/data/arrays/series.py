"""Series of vectors with later values as labels, for regression."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dni.data.arrays.file_digest import digest_of_files
from dni.data.arrays.layout import Layout, Sampling, held_out_layout, training_layout
from dni.data.arrays.table import Numbers, read_table
from dni.data.base import Data, DataContext, FromFiles, in_passes
from dni.data.source import PassSource, refuse_future_labels
from dni.data.window import Window
from dni.errors import ConfigError
from dni.ranges import below_one, one_or_more
from dni.types import Inputs


class SeriesSource(PassSource):
    """Windows of a series: inputs (B, T, D) and labels (B, T, O), the targets `horizon` rows later.

    Args:
        inputs: (rows, D) float32, in order of time.
        targets: (rows, O) float32, of the same rows.
        layout: the start of each window.
        horizon: rows from an input to its label.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, layout: Layout, horizon: int) -> None:
        self.inputs, self.targets, self.layout, self.horizon = inputs, targets, layout, horizon
        self.symbols, self.windows_per_pass = targets.shape[1], layout.windows_per_pass

    def window(self, n: int) -> Window:
        place = self.layout.place(n)
        rows = torch.tensor(place.starts).unsqueeze(1) + torch.arange(self.layout.window)
        reset, done = (torch.full((self.layout.batch,), here) for here in (place.within == 0, place.left == 0))
        return Window(self.inputs[rows], self.targets[rows + self.horizon], reset, done)


@dataclass
class Series(FromFiles):
    """Rows of numbers in order of time, from a CSV file or a NumPy array. A label is the targets of a later row."""

    sequence: int | None = one_or_more(None)
    channels: list[str] = field(default_factory=list)  # columns that are inputs; empty: all
    targets: list[str] = field(default_factory=list)  # columns to predict; empty: all channels
    horizon: int = one_or_more(1)  # [time steps] from an input to its label
    normalise: bool = True  # scale columns to mean 0 and deviation 1 in the training part
    valid_share: float = below_one(0.1)  # [share] of the rows for validation: those before the test part
    test_share: float = below_one(0.1)  # [share] of the rows for dni-evaluate: the last ones
    sampling: Sampling = Sampling.streams  # streams: B parallel streams in order; random: each sequence (each window if
    # data.sequence=null) starts at an offset drawn from the seed and its number

    name: ClassVar[str] = "series"
    gives: ClassVar[Inputs] = Inputs.vectors
    numbers: ClassVar[bool] = True

    def open(self, context: DataContext) -> Data:
        refuse_future_labels(True, context.future_labels)
        path = self._check_path()
        table = read_table(path, self.channels, self.targets)
        channels = self.channels or [*table.names]
        ends = self._ends(len(table.values))
        inputs, labels = (self._scaled(table.of(names), ends[0]) for names in (channels, self.targets or channels))

        def source(part: slice) -> SeriesSource:
            layout = self._layout(part.stop - part.start, context, training=part.start == 0)
            return SeriesSource(inputs[part], labels[part], layout, self.horizon)

        return in_passes(
            path.name,
            source(slice(0, ends[0])),
            source(slice(ends[0], ends[1])),
            digest=partial(digest_of_files, [path]),
            test=partial(source, slice(ends[1], len(inputs))) if self.test_share else None,
            input_shape=(len(channels),),
        )

    def check(self, run: Any) -> None:
        super().check(run)
        self._check_path()
        if not self.valid_share:
            raise ConfigError("data.valid_share=0 leaves nothing to validate on: set data.valid_share=0.1, say")
        if self.valid_share + self.test_share >= 1:
            raise ConfigError(
                f"data.valid_share={self.valid_share} and data.test_share={self.test_share} leave nothing to train on: "
                "set data.valid_share=0.1 data.test_share=0.1, say"
            )

    def _check_path(self) -> Path:
        if self.path is None:
            raise ConfigError("data.path is not set: data=series data.path=FILE, a .csv with names in its first line")
        return Path(self.path).expanduser()

    def _ends(self, rows: int) -> tuple[int, int]:
        """Return the rows at which the training and the validation part end."""
        test, valid = int(rows * self.test_share), int(rows * self.valid_share)
        return rows - test - valid, rows - test

    def _scaled(self, values: Numbers, training: int) -> Tensor:
        """Return (rows, columns) float32. A column that is constant in the training part is not divided."""
        if self.normalise and training:
            mean, deviation = values[:training].mean(axis=0), values[:training].std(axis=0)
            values = (values - mean) / np.where(deviation > 0, deviation, 1.0)
        return torch.from_numpy(values).float()

    def _layout(self, rows: int, context: DataContext, *, training: bool) -> Layout:
        sizes = rows, self.batch, context.window, self.sequence
        if training:
            return training_layout(self.sampling, *sizes, seed=context.seed, ahead=self.horizon)
        return held_out_layout(self.sampling, *sizes, ahead=self.horizon)
