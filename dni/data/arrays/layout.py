"""Layouts: the start of each window in a long array, in parallel streams or in random crops."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple, Protocol

import numpy as np

from dni.errors import ConfigError, DataError

Sampling = enum.Enum("Sampling", ["streams", "random"])


class Place(NamedTuple):
    """One window of every stream of a batch."""

    starts: list[int]  #: first row of the window, for each of the B streams
    within: int  #: rows of the sequence before the window
    left: int  #: rows of the sequence after the window


class Layout(Protocol):
    """Windows of T rows, as a pure function of their number."""

    batch: int  #: B
    window: int  #: T
    windows_per_pass: int  #: windows that together have about as many rows as the array

    def place(self, n: int) -> Place:
        """Return the place of window n = 0, 1, ..."""


class Streams:
    """B contiguous streams of equal length, read in order from their starts, pass after pass.

    Args:
        rows: number of rows of the array.
        batch: B.
        window: T.
        sequence: rows of a sequence, a multiple of T; the rows of a stream after its last whole sequence are not
            used. None: a pass is one sequence.
        ahead: number of rows from an input to its label.
        unit: name of the rows in messages.

    Raise ConfigError for inconsistent sizes, DataError for an array that is too short.
    """

    def __init__(
        self, rows: int, batch: int, window: int, sequence: int | None = None, *, ahead: int = 1, unit: str = "rows"
    ) -> None:
        _refuse_sizes(batch, window, sequence)
        whole, self._stream = sequence or window, rows // batch
        usable = (self._stream - ahead) // whole * whole
        if usable < 1:
            raise _too_short(rows, batch * (whole + ahead), unit, f"{batch} streams of {whole} and the labels after")
        self.batch, self.window, self.windows_per_pass = batch, window, usable // window
        self._sequence = sequence or usable

    def place(self, n: int) -> Place:
        at = n % self.windows_per_pass * self.window
        within = at % self._sequence
        starts = [stream * self._stream + at for stream in range(self.batch)]
        return Place(starts, within, self._sequence - within - self.window)


class Crops:
    """B sequences at random offsets, which depend only on the seed and the number of the sequence.

    Sequences may overlap. A pass has as many windows as `Streams` with sequences of one window.

    Args:
        rows, batch, window, ahead, unit: as for `Streams`.
        sequence: rows of a sequence, a multiple of T; None: T.
        seed: 0 or more.

    Raise the errors of `Streams`.
    """

    def __init__(
        self,
        rows: int,
        batch: int,
        window: int,
        sequence: int | None = None,
        *,
        seed: int,
        ahead: int = 1,
        unit: str = "rows",
    ) -> None:
        _refuse_sizes(batch, window, sequence)
        self._sequence, self._seed = sequence or window, seed
        self._offsets = rows - self._sequence - ahead + 1  # offsets are from 0 to this number - 1
        if self._offsets < 1:
            raise _too_short(rows, self._sequence + ahead, unit, f"a crop of {self._sequence} and the label after it")
        self.batch, self.window = batch, window
        self.windows_per_pass = max(1, rows // (batch * window))

    def place(self, n: int) -> Place:
        number, within = divmod(n * self.window, self._sequence)
        offsets = np.random.default_rng((self._seed, number)).integers(self._offsets, size=self.batch)
        return Place([int(one) + within for one in offsets], within, self._sequence - within - self.window)


def training_layout(
    sampling: Sampling, rows: int, batch: int, window: int, sequence: int | None, *, seed: int, **more: Any
) -> Layout:
    """Return `Streams` or `Crops`. `more` are `ahead` and `unit`."""
    if sampling is Sampling.random:
        return Crops(rows, batch, window, sequence, seed=seed, **more)
    return Streams(rows, batch, window, sequence, **more)


def held_out_layout(
    sampling: Sampling, rows: int, batch: int, window: int, sequence: int | None, **more: Any
) -> Layout:
    """Return streams in order, with sequences as long as those of training."""
    return Streams(rows, batch, window, sequence or (window if sampling is Sampling.random else None), **more)


def _refuse_sizes(batch: int, window: int, sequence: int | None) -> None:
    if batch < 1 or window < 1:
        raise ConfigError(f"need batch {batch} >= 1 and window {window} >= 1")
    if sequence is not None and (sequence < 1 or sequence % window):
        nearest = max(window, round(sequence / window) * window)
        raise ConfigError(f"sequence {sequence} is not a multiple of the window {window}: use {nearest}, say")


def _too_short(rows: int, needed: int, unit: str, what: str) -> DataError:
    return DataError(
        f"this part of the data is too short: {what} need {needed} {unit}, it has {rows}; use more data, a smaller "
        "data.batch, or a shorter data.window or data.sequence"
    )
