"""A data set with a length, whose items can be read in any order: a window is a function of its number."""

from __future__ import annotations

from typing import Any

from dni.data.source import EpochSampler, PassSource
from dni.data.torch_sets.collate import Collator
from dni.data.torch_sets.layout import item_of
from dni.data.torch_sets.reading import explained
from dni.data.window import Window
from dni.errors import DataError
from dni.rng import drawing_from


class MappedSource(PassSource):
    """Batches of the items of a map-style data set, pass after pass.

    Random numbers that the data set draws while an item is read are a function of (seed, number of the window).

    Args:
        items: has `__getitem__` and `__len__`.
        collator: joins items.
        batch: B.
        shuffle: read every pass in an order of its own, drawn from (seed, pass).
        drop_last: leave out the last batch of a pass if it has fewer items than B.
        seed: of the order and of random items.
        name: of the data in messages.
    """

    def __init__(
        self, items: Any, collator: Collator, batch: int, *, shuffle: bool, drop_last: bool, seed: int, name: str
    ) -> None:
        count = len(items)
        if count < (batch if drop_last else 1):
            raise DataError(f"{name} has {count} items, fewer than one batch of {batch}: set data.batch={count or 1}")
        self.items, self.collator, self.batch, self.seed, self.name = items, collator, batch, seed, name
        self.symbols, self.input_symbols = collator.outputs, collator.symbols
        self.windows_per_pass = count // batch if drop_last else -(-count // batch)
        self._order = EpochSampler(count, seed=seed, shuffle=shuffle)

    def window(self, n: int) -> Window:
        number, group = divmod(n, self.windows_per_pass)
        rows: list[int] = self._order.of(number)[group * self.batch : (group + 1) * self.batch].tolist()
        names = [f"{self.name} item {row}" for row in rows]
        with explained(f"{self.name} failed"), drawing_from(self.seed, n, 2):
            items = [item_of(self.items[row], name) for row, name in zip(rows, names, strict=True)]
        return self.collator.join(items, names.__getitem__)
