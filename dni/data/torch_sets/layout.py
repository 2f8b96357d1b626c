"""The tensors of an item (inputs, labels): their names, element types and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dni.errors import DataError
from dni.named_tensors import UNNAMED, Value, named

INPUTS, LABELS = "inputs", "labels"

#: Sizes that differ from item to item: T, the labels of the item, and any other length of a sequence.
STEPS, ANY = "T", "*"


class Item(NamedTuple):
    """One example, or a batch of them with B in front of all sizes."""

    inputs: Value
    labels: Tensor


class TensorKind(NamedTuple):
    """Element type of a tensor, and its sizes in one item: numbers, STEPS or ANY."""

    dtype: torch.dtype
    sizes: tuple[int | str, ...]

    def __str__(self) -> str:
        return " ".join([str(self.dtype).removeprefix("torch."), *map(str, self.sizes)])

    @staticmethod
    def parse(text: str) -> TensorKind:
        """Return the inverse of `str`."""
        dtype, *sizes = text.split()
        return TensorKind(getattr(torch, dtype), tuple(int(size) if size.isdigit() else size for size in sizes))

    def fits(self, tensor: Tensor, steps: int | None) -> bool:
        """Return whether a tensor of one item is of this kind, in an item with so many labels."""

        def same(size: int | str, found: int) -> bool:
            return size == ANY or found == (steps if size == STEPS else size)

        alike = tensor.dtype is self.dtype and tensor.dim() == len(self.sizes)
        return alike and all(map(same, self.sizes, tensor.shape))

    def zeros(self, batch: int, steps: int) -> Tensor:
        """Return a batch of zeros with T = `steps`; bool tensors are true, other lengths are `steps` + 2."""
        lengths = {STEPS: steps, ANY: steps + 2}
        sizes = [lengths[size] if isinstance(size, str) else size for size in self.sizes]
        return torch.full((batch, *sizes), self.dtype is torch.bool, dtype=self.dtype)


class ItemLayout(NamedTuple):
    """The kinds of an item's tensors. The inputs are named, or a single `UNNAMED` tensor."""

    inputs: Mapping[str, TensorKind]
    labels: TensorKind

    @property
    def sequences(self) -> bool:
        """Whether there is a label at every step."""
        return STEPS in self.labels.sizes

    @property
    def numbers(self) -> bool:
        """Whether labels are numbers."""
        return self.labels.dtype.is_floating_point

    @property
    def single(self) -> TensorKind | None:
        """The kind of the inputs if they are one tensor."""
        return self.inputs.get(UNNAMED)

    def steps(self, item: Item) -> int | None:
        """Return T of an item; None: it is no sequence."""
        return len(item.labels) if self.sequences and item.labels.dim() else None

    def refuse_other(self, item: Item, where: str) -> None:
        """Raise DataError, prefixed with `where`, if an item has other tensors."""
        found = named(item.inputs)
        if found.keys() != self.inputs.keys():
            raise DataError(
                f"{where}: its inputs are {_names(found)}, and those of the first items {_names(self.inputs)}: give "
                "all items the same names"
            )
        steps = self.steps(item)
        kinds = [(_full(name), kind, found[name]) for name, kind in self.inputs.items()]
        for name, kind, tensor in [*kinds, (LABELS, self.labels, item.labels)]:
            if not kind.fits(tensor, steps):
                sizes = f"{_kind(tensor)}" + (f" beside {steps} labels" if steps is not None else "")
                raise DataError(
                    f"{where}: {name} is {sizes}, where the first items have {kind}: give all items the same element "
                    f"type and sizes ({STEPS} and {ANY} may differ)"
                )

    def plain(self) -> dict[str, str]:
        """Return the layout as text, by the names of the tensors."""
        inputs = {_full(name): str(kind) for name, kind in self.inputs.items()}
        return {**inputs, LABELS: str(self.labels)}

    @staticmethod
    def parse(plain: Mapping[str, str]) -> ItemLayout:
        """Return the inverse of `plain`."""
        kinds = {name: TensorKind.parse(text) for name, text in plain.items()}
        labels = kinds.pop(LABELS)
        return ItemLayout({name.removeprefix(INPUTS).removeprefix("."): kind for name, kind in kinds.items()}, labels)

    @staticmethod
    def of(items: Sequence[Item], where: str) -> ItemLayout:
        """Return the layout of the first items of a data set. Raise DataError for tensors that cannot be trained on."""
        first = items[0]
        sequences = first.labels.dim() == (2 if first.labels.is_floating_point() else 1)
        if not sequences and first.labels.dim() != int(first.labels.is_floating_point()):
            raise DataError(
                f"{where}: its labels are {_kind(first.labels)}: give a class (), a class for each step (T), numbers "
                "(O) or numbers for each step (T, O)"
            )
        steps = [len(item.labels) if sequences else None for item in items]
        inputs = {}
        for name, tensor in named(first.inputs).items():
            sizes = [named(item.inputs).get(name, tensor).shape for item in items]
            inputs[name] = TensorKind(tensor.dtype, _sizes(tensor, sizes, steps))
        own = tuple(first.labels.shape)
        return ItemLayout(inputs, TensorKind(first.labels.dtype, (STEPS, *own[1:]) if sequences else own))


def item_of(given: Any, where: str) -> Item:
    """Return what a data set gives as tensors: int64, float32 or bool. Raise DataError for anything but two."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        count = f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, tuple | list) else "")
        raise DataError(f"{where} is {count}, and must be two things: (inputs, labels)")
    inputs, labels = given
    if isinstance(inputs, dict):
        if not inputs or not all(isinstance(name, str) and name for name in inputs):
            raise DataError(f"{where}: its inputs have the names {_names(inputs)}: give each tensor a name, a str")
        return Item({n: _tensor(each, f"{where}: {_full(n)}") for n, each in inputs.items()}, _labels(labels, where))
    return Item(_tensor(inputs, f"{where}: {INPUTS}"), _labels(labels, where))


def _labels(given: Any, where: str) -> Tensor:
    labels = _tensor(given, f"{where}: {LABELS}")
    if labels.dtype is torch.bool:
        return labels.long()
    return labels.unsqueeze(0) if labels.is_floating_point() and not labels.dim() else labels


def _tensor(given: Any, what: str) -> Tensor:
    if not isinstance(given, Tensor | np.ndarray | np.generic | bool | int | float):
        raise DataError(f"{what} is a {type(given).__name__}, and must be a tensor: convert it in the data set")
    tensor = torch.as_tensor(given)
    if tensor.is_complex():
        raise DataError(f"{what} is {tensor.dtype}, and must be real numbers or integers: convert it in the data set")
    if tensor.is_floating_point():
        return tensor.float()
    return tensor if tensor.dtype is torch.bool else tensor.long()


def _sizes(first: Tensor, sizes: Sequence[torch.Size], steps: Sequence[int | None]) -> tuple[int | str, ...]:
    """Return the sizes of a tensor in one item. The first one may be that of the labels, or vary."""
    if not first.dim():
        return ()
    lengths = [each[0] if len(each) else None for each in sizes]
    integers, vector = not first.is_floating_point(), first.dim() == 1
    if steps[0] is not None and lengths == list(steps):
        start: int | str = STEPS
    else:
        varies = integers if vector else len(set(lengths)) > 1
        start = ANY if varies else first.shape[0]
    return start, *first.shape[1:]


def _full(name: str) -> str:
    return f"{INPUTS}.{name}" if name else INPUTS


def _names(inputs: Mapping[str, Any]) -> str:
    return ", ".join(map(str, inputs)) if set(inputs) != {UNNAMED} else "one tensor"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
