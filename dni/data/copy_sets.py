"""The copy tasks as data sets: sequences of one length, or a curriculum of growing ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dni.data.base import Data, DataContext, Streamable
from dni.data.copy_task import CopySource
from dni.ranges import one_or_more

#: Time steps of the shortest sequence, the first of a curriculum.
SHORTEST = 5

#: Sequences in a validation pass over sequences of a fixed length.
VALIDATION_SEQUENCES = 16


@dataclass
class Copy(Streamable):
    """The copy task: read bits, then reproduce them (Graves et al. 2014)."""

    length: int | None = one_or_more(None)  # [time steps] of every sequence; null: a curriculum of growing lengths

    name: ClassVar[str] = "copy"
    repeat: ClassVar[bool] = False

    @property
    def grows(self) -> bool:
        return self.length is None

    @property
    def known_ahead(self) -> bool:
        return not self.streaming

    @property
    def whole_length(self) -> int | None:
        return self.length or SHORTEST

    @property
    def label_delay(self) -> int:
        return self.length or 0

    def open(self, context: DataContext) -> Data:
        train, length = self._source(context, context.seed, self.length), self.length

        def valid() -> CopySource:
            return self._source(context, context.seed + 10**9, length)

        def probe() -> CopySource:
            """Return sequences of the curriculum's current length, or shorter ones that fit the probe's windows."""
            most = context.probe_windows * context.window
            present = train.length if context.whole_sequences else train.longest_within(most)
            return self._source(context, context.seed + 2 * 10**9, present)

        windows = 0 if length is None else VALIDATION_SEQUENCES * train.windows_per_sequence
        sizes = train.symbols, train.input_symbols
        return Data(self.name, *sizes, train, valid, windows, probe if length is None else valid)

    def _source(self, context: DataContext, seed: int, length: int | None) -> CopySource:
        window = None if context.whole_sequences else context.window
        return CopySource(
            self.batch, window, context.future_labels, seed=seed, repeat=self.repeat, length=length,
            streaming=self.streaming,
        )  # fmt: skip


@dataclass
class RepeatCopy(Copy):
    """The repeat-copy task: read bits and a number, then reproduce the bits that many times."""

    name: ClassVar[str] = "repeat_copy"
    repeat: ClassVar[bool] = True
