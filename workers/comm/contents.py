"""What the frames hold that go to one stage. All stages know it from the settings, so each frame is held against it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dni.errors import WrongTensor
from dni.types import IGNORED
from workers.comm.frame import Frame, Kind

Shape = tuple[int, ...]

_NUMBERS = ("last", "index")


@dataclass(frozen=True)
class Contents:
    """The tensors of every kind of frame, for the stage that receives them.

    Shape letters: B batch, T steps of a window, V vocabulary, C context.
    """

    value: Shape  #: of one example, or of one step of it
    dtype: torch.dtype  #: of values
    batch: int  #: B
    symbols: int  #: V; labels are below it
    smaller: bool = False  #: the last batch of a validation pass may be smaller
    steps: int | None = None  #: T; None: it varies
    sequences: bool = True  #: values are (B, T, ...) and labels (B, T); else (B, ...) and (B,)
    one_label: bool = False  #: labels are (B, 1), whatever T is
    numbers: int = 0  #: O: labels are numbers (..., O), of the type of values; 0: they are symbols
    context: int = 0  #: C; 0: no context travels with training steps
    context_symbols: int = 0  #: the context's entries are below it
    every: int = 1  #: the receiver's clock: between its ticks a frame has neither value nor labels
    numbered: bool = False  #: windows of a validation pass are numbered

    def check(self, frame: Frame, where: str) -> None:
        """Raises WrongTensor, which says `where`, for a tensor that is missing, unknown, or not what was agreed."""
        try:
            self._check_names(frame)
            if frame.kind is Kind.PROBE:
                self._check_probe(frame.tensors)
            elif frame.kind in (Kind.STEP, Kind.EVALUATE):
                self._check_window(frame)
        except WrongTensor as error:
            raise WrongTensor(f"{where}: {error}; do both stages run the same version of the program?") from None

    def _check_names(self, frame: Frame) -> None:
        for name in _NUMBERS:  # first of all: one of them says whether the receiver ticks
            if name in frame.tensors:
                expect(name, frame.tensors[name], (), torch.int64)
        wanted = self._names(frame)
        found = frame.tensors.keys() - ({"last"} if frame.kind is Kind.STEP else set())
        if found != wanted:
            raise WrongTensor(f"it has the tensors {sorted(found)}, and the settings say {sorted(wanted)}")

    def _names(self, frame: Frame) -> set[str]:
        if frame.kind is Kind.PROBE:
            return {"value", "labels", "context", "windows"}
        if frame.kind not in (Kind.STEP, Kind.EVALUATE):
            return set()
        names = {"reset", "done"}
        if frame.kind is Kind.EVALUATE and self.numbered:
            names.add("index")
        if not self._ticks(frame):
            return names
        return names | {"value", "labels"} | ({"context"} if frame.kind is Kind.STEP and self.context else set())

    def _ticks(self, frame: Frame) -> bool:
        if self.every == 1 or (frame.kind is Kind.EVALUATE and "index" not in frame.tensors):
            return True
        number = frame.step if frame.kind is Kind.STEP else int(frame.tensors["index"])
        return number % self.every == 0

    def _check_window(self, frame: Frame) -> None:
        tensors, batch = frame.tensors, self.batch
        if self.smaller and frame.kind is Kind.EVALUATE:
            batch = self._smaller(tensors["reset"])
        for name in ("reset", "done"):
            expect(name, tensors[name], (batch,), torch.bool)
        if "value" not in tensors:
            return
        steps = self.steps or _size(tensors["value"], 1)
        self._check_value(tensors, batch, steps)
        if "context" in tensors:
            expect("context", tensors["context"], (batch, self.context), torch.int64)
            _expect_below("context", tensors["context"], self.context_symbols)

    def _check_probe(self, tensors: dict[str, Tensor]) -> None:
        windows, value = tensors["windows"], tensors["value"]
        expect("windows", windows, (_size(windows, 0),), torch.int64)
        sizes = windows.tolist()
        if min(sizes, default=0) < 1 or sum(sizes) != _size(value, 1):
            raise WrongTensor(f"'windows' are {sizes}, and 'value' has {_size(value, 1)} steps")
        self._check_value(tensors, self.batch, sum(sizes))
        context = tensors["context"]
        expect("context", context, (len(sizes), self.batch, self.context), torch.int64)
        _expect_below("context", context, self.context_symbols)

    def _check_value(self, tensors: dict[str, Tensor], batch: int, steps: int) -> None:
        streams = (batch, steps) if self.sequences else (batch,)
        expect("value", tensors["value"], (*streams, *self.value), self.dtype)
        one = self.one_label and "windows" not in tensors
        labels = tensors["labels"]
        if self.numbers:
            expect("labels", labels, (*streams, self.numbers), self.dtype)
            return
        expect("labels", labels, (batch, 1) if one else streams, torch.int64)
        _expect_below("labels", labels, self.symbols)

    def _smaller(self, reset: Tensor) -> int:
        """The size of a batch that may be the last one of its pass."""
        size = _size(reset, 0)
        return size if 0 < size <= self.batch else self.batch


def expect(name: str, tensor: Tensor, shape: Shape, dtype: torch.dtype, said_by: str = "the settings say") -> None:
    """Raises WrongTensor, which names both, unless a tensor has this shape and element type."""
    if tensor.dtype is not dtype or tensor.shape != shape:
        raise WrongTensor(f"{name!r} is {_described(tensor.dtype, tensor.shape)}, {said_by} {_described(dtype, shape)}")


def _expect_below(name: str, tensor: Tensor, symbols: int) -> None:
    if not tensor.numel():
        return
    lowest, highest = (int(each) for each in torch.aminmax(tensor))
    if lowest < IGNORED or highest >= symbols:
        raise WrongTensor(f"{name!r} are from {lowest} to {highest}, the settings say {IGNORED} to {symbols - 1}")


def _size(tensor: Tensor, dimension: int) -> int:
    return tensor.shape[dimension] if tensor.dim() > dimension else 0


def _described(dtype: torch.dtype, shape: Shape) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
