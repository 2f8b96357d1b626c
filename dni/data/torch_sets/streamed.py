"""A data set that is read from its start: items or batches, without end or pass after pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from dni.data.source import Source
from dni.data.torch_sets.collate import Collator
from dni.data.torch_sets.layout import Item, item_of
from dni.data.torch_sets.reading import as_batch, explained, gives_items, has_state
from dni.data.window import Window
from dni.errors import DataError
from dni.rng import drawing_from

log = logging.getLogger(__name__)


class StreamedSource(Source):
    """Windows of an `IterableDataset`, in batches of B items, or of an iterable of batches, such as a DataLoader.

    A data set with `state_dict` and `load_state_dict` continues by them. Any other is read again from the start of the
    pass up to the position. Random numbers that it draws meanwhile are a function of (seed, pass, window).

    Args:
        data: the data set; `set_epoch(pass)` is called before a pass if it has that method.
        collator: joins items.
        batch: B.
        drop_last: leave out batches of fewer items than B.
        seed: of random items.
        name: of the data in messages.
        windows: windows of a pass; None: unknown.
    """

    def __init__(
        self, data: Any, collator: Collator, batch: int, *, drop_last: bool, seed: int, name: str, windows: int | None
    ) -> None:
        self.data, self.collator, self.batch, self.drop_last = data, collator, batch, drop_last
        self.seed, self.name, self.windows_per_pass = seed, name, windows
        self.symbols, self.input_symbols = collator.outputs, collator.symbols
        self._pass, self._position = 0, 0
        self._windows: Iterator[Window] | None = None

    def next(self) -> Window:
        """Return the next window. The next pass follows the last window of a pass."""
        window = self._read()
        if window is None:
            if not self._position:
                raise DataError(f"{self.name} has no batch of {self.batch} items: set a smaller data.batch")
            self._pass, self._position, self._windows = self._pass + 1, 0, None
            window = self._read()
        if window is None:
            raise DataError(f"{self.name} ended and gives nothing when it is read again: return an iterable")
        self._position += 1
        return window

    def state_dict(self) -> dict[str, Any]:
        """Return the pass, the windows read in it, and the data set's own state (None: it has none)."""
        own = self.data.state_dict() if has_state(self.data) else None
        return {"pass": self._pass, "position": self._position, "own": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pass, self._position, self._windows = state["pass"], state["position"], None
        if state["own"] is not None:
            self.data.load_state_dict(state["own"])
        elif state["position"]:
            self._skip(state["position"])

    def _skip(self, windows: int) -> None:
        log.warning(
            "%s: reading %d batches again to go on where the run stopped; with state_dict and load_state_dict the data "
            "set would go on at once", self.name, windows,
        )  # fmt: skip
        for self._position in range(windows):
            if self._read() is None:
                raise DataError(f"{self.name} ended after {self._position} batches, and the run had read {windows}")
        self._position = windows

    def _read(self) -> Window | None:
        """Return the next window of the pass; None: it is over."""
        with explained(f"{self.name} failed"), drawing_from(self.seed, self._pass, self._position, 3):
            if self._windows is None:
                if hasattr(self.data, "set_epoch"):
                    self.data.set_epoch(self._pass)
                self._windows = self._batched() if gives_items(self.data) else self._batches()
            return next(self._windows, None)

    def _batched(self) -> Iterator[Window]:
        items = _numbered(self.data, f"{self.name} item", self._position * self.batch)
        while group := list(islice(items, self.batch)):
            if len(group) == self.batch or not self.drop_last:
                names = [name for name, _ in group]
                yield self.collator.join([item for _, item in group], names.__getitem__)

    def _batches(self) -> Iterator[Window]:
        for name, each in _numbered(self.data, f"{self.name} batch", self._position):
            batch = as_batch(each)
            rows = len(batch.labels)
            if rows > self.batch:
                raise DataError(f"{name} has {rows} rows, and data.batch={self.batch}: set data.batch={rows}")
            if rows and (rows == self.batch or not self.drop_last):
                yield self.collator.batch(batch, name)


def _numbered(data: Any, what: str, start: int) -> Iterator[tuple[str, Item]]:
    for number, given in zip(count(start), data):
        yield f"{what} {number}", item_of(given, f"{what} {number}")
