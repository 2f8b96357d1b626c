"""The ways to read a data set of torch: items by number, items in order, or batches that it makes itself."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from dni.data.torch_sets.layout import Item, item_of
from dni.errors import ConfigError, DataError, DniError
from dni.named_tensors import map_tensors


def in_any_order(data: Any) -> bool:
    """Return whether items can be read by their number."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not gives_items(data)


def gives_items(data: Any) -> bool:
    """Return whether an iterable gives items, and not batches."""
    return isinstance(data, IterableDataset)


def has_state(data: Any) -> bool:
    """Return whether a data set can save its position."""
    return hasattr(data, "state_dict") and hasattr(data, "load_state_dict")


def readable(data: Any) -> bool:
    """Return whether a data set can be read, more than once."""
    return in_any_order(data) or (hasattr(data, "__iter__") and not isinstance(data, Iterator))


def windows_of(data: Any, batch: int) -> int | None:
    """Return the number of windows of a pass over an iterable, with a smaller last one; None: it has no length."""
    try:
        count = len(data)
    except TypeError:
        return None
    return -(-count // batch) if gives_items(data) else count


def classes_of(data: Any) -> int | None:
    """Return the number of classes that a data set, or the one inside it, names; None: it does not."""
    known = getattr(data, "num_classes", None) or getattr(data, "classes", None)
    if known is None:
        inside = getattr(data, "dataset", None)  # of a DataLoader, or of a part of another data set
        return None if inside is None else classes_of(inside)
    return known if isinstance(known, int) else len(known)


def first_items(data: Any, most: int, name: str) -> list[Item]:
    """Return up to `most` first items, or those of the first batch. Raise DataError if there are none."""
    if in_any_order(data):
        items = [item_of(data[n], f"{name} item {n}") for n in range(min(most, len(data)))]
    elif gives_items(data):
        items = [item_of(each, f"{name} item {n}") for n, each in enumerate(islice(data, most))]
    else:
        items = [row for each in islice(data, 1) for row in _rows(as_batch(item_of(each, f"{name} batch 0")))]
    if not items:
        raise DataError(f"{name} is empty: give the data set items")
    return items


def as_batch(batch: Item) -> Item:
    """Return a batch with labels (B, O) if they are numbers (B,)."""
    numbers = batch.labels.is_floating_point() and batch.labels.dim() == 1
    return Item(batch.inputs, batch.labels.unsqueeze(1)) if numbers else batch


@contextmanager
def explained(failed: str) -> Iterator[None]:
    """Raise an error of the user's code as ConfigError: one line that begins with `failed` and ends with the place."""
    try:
        yield
    except DniError:
        raise
    except Exception as error:  # a user's code may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{failed}: {type(error).__name__}: {message} ({Path(place.filename).name}, line {place.lineno})"
        ) from error


def _rows(batch: Item) -> Iterator[Item]:
    for n, labels in enumerate(batch.labels):
        yield Item(map_tensors(lambda each, n=n: each[n], batch.inputs), labels)  # type: ignore[misc]
