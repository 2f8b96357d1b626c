"""Items joined to a window: shorter sequences are padded, and padded positions have no label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.data.torch_sets.layout import INPUTS, STEPS, Item, ItemLayout
from dni.data.window import Window
from dni.errors import DataError
from dni.named_tensors import UNNAMED, Value, named
from dni.types import IGNORED


@dataclass(frozen=True)
class Collator:
    """Joins items, and checks that they fit the layout and that labels and symbols are in their ranges.

    Inputs are padded with 0 (bool tensors with false) and labels with IGNORED.
    """

    layout: ItemLayout
    outputs: int  #: V, number of classes, or O, numbers of one label
    symbols: int  #: number of input symbols; 0: unknown, or inputs are no symbols

    def join(self, items: Sequence[Item], name: Callable[[int], str]) -> Window:
        """Return a window of items; `name` says what item n of them is. Raise DataError for one that does not fit."""
        for n, item in enumerate(items):
            self.layout.refuse_other(item, name(n))
        inputs = {key: _padded([named(item.inputs)[key] for item in items], 0) for key in self.layout.inputs}
        labels = [item.labels for item in items]
        if self.layout.numbers:
            self._refuse_lengths(labels, name)
        return self._window(Item(_value(inputs), _padded(labels, IGNORED)), name)

    def batch(self, batch: Item, where: str) -> Window:
        """Return a window of a batch that the data set has made. Raise DataError if it does not fit."""
        inputs = named(batch.inputs)
        rows = len(batch.labels)
        for key, tensor in inputs.items():
            if not tensor.dim() or len(tensor) != rows:
                raise DataError(f"{where}: {key or INPUTS} is {tuple(tensor.shape)} beside {rows} rows of labels")
        if rows:
            row = Item(_value({key: tensor[0] for key, tensor in inputs.items()}), batch.labels[0])
            self.layout.refuse_other(row, where)
        return self._window(batch, lambda n: f"{where}, row {n}")

    def _window(self, batch: Item, name: Callable[[int], str]) -> Window:
        if not self.layout.numbers:
            _refuse_beyond(batch.labels, IGNORED, self.outputs, "label", "data.classes", name)
        if self.symbols:
            _refuse_beyond(named(batch.inputs)[UNNAMED], 0, self.symbols, "input", "data.vocabulary", name)
        whole = torch.ones(len(batch.labels), dtype=torch.bool)
        return Window(batch.inputs, batch.labels, whole, whole)

    def _refuse_lengths(self, labels: Sequence[Tensor], name: Callable[[int], str]) -> None:
        if self.layout.sequences:
            other = next((n for n, each in enumerate(labels) if len(each) != len(labels[0])), None)
            if other is not None:
                raise DataError(
                    f"{name(other)} has {len(labels[other])} {STEPS} labels, and {name(0)} has {len(labels[0])}: "
                    "numbers as labels cannot be padded: give sequences of one length, or data.batch=1"
                )


def _value(inputs: dict[str, Tensor]) -> Value:
    return inputs.get(UNNAMED, inputs)


def _padded(tensors: Sequence[Tensor], filler: int) -> Tensor:
    """Return (B, ...): tensors whose first size differs are filled up to the longest."""
    longest = max(len(each) for each in tensors) if tensors[0].dim() else 0
    if not longest or all(len(each) == longest for each in tensors):
        return torch.stack(list(tensors))
    whole = tensors[0].new_full((len(tensors), longest, *tensors[0].shape[1:]), filler)
    for row, each in zip(whole, tensors, strict=True):
        row[: len(each)] = each
    return whole


def _refuse_beyond(batch: Tensor, lowest: int, limit: int, what: str, setting: str, name: Callable[[int], str]) -> None:
    """Raise DataError for a batch with an integer below `lowest` or not below `limit`."""
    if not batch.numel():
        return
    least, most = (int(each) for each in torch.aminmax(batch))
    if least >= lowest and most < limit:
        return
    wrong = most if most >= limit else least
    row = int((batch == wrong).reshape(len(batch), -1).any(1).nonzero()[0])
    advice = f"set {setting}={most + 1}" if most >= limit else f"number them from 0{' (-1: no loss)' if lowest else ''}"
    raise DataError(f"{name(row)} has the {what} {wrong}, and {setting}={limit}: {advice}, or correct the data")
