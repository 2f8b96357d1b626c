"""Check the tensors of received frames against what the settings of the run imply."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dni.errors import WrongTensor
from dni.types import IGNORED
from workers.comm.frame import Frame, Kind
from workers.comm.roles import VALUE, frame_name

Shape = tuple[int, ...]

_SCALARS = ("last", "index")


class Rows(enum.Enum):
    """What the first sizes of a tensor count."""

    LABELS = "labels"  #: (B, T, ...); (B, ...) of examples that are no sequence
    EXAMPLES = "examples"  #: (B, ...)
    NONE = "none"  #: neither examples nor steps: the same for all


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the values that cross an edge."""

    shape: tuple[int | None, ...]  #: of a row, or of an example; None: this size may change from step to step
    dtype: torch.dtype
    rows: Rows = Rows.LABELS


@dataclass(frozen=True)
class Contents:
    """The tensors of every kind of frame, for the stage that receives them.

    Shape letters: B batch, T steps of a window, V vocabulary, C context.
    """

    value: Mapping[str, TensorSpec]  #: the tensors of a value by name; of a single tensor the name is ""
    batch: int  #: B
    symbols: int  #: V; labels are smaller
    smaller: bool = False  #: the last batch of a validation pass may have fewer rows than B
    smaller_steps: bool = False  #: and that of a training pass
    steps: int | None = None  #: T; None: any number
    sequences: bool = True  #: values are (B, T, ...) and labels (B, T); else (B, ...) and (B,)
    one_label: bool = False  #: labels are (B, 1) for any T
    numbers: int = 0  #: O: labels are float32 numbers (..., O); 0: labels are symbols
    context: int = 0  #: C; 0: training steps have no context
    context_symbols: int = 0  #: entries of the context are smaller
    every: int = 1  #: update period of the receiver; other frames have neither value nor labels
    numbered: bool = False  #: windows of a validation pass have an index
    piggybacked: Mapping[str, TensorSpec] = field(default_factory=dict)  #: tensors that a frame of any kind may have

    def check(self, frame: Frame, where: str) -> None:
        """Raise WrongTensor, prefixed with `where`, for a missing, unknown or wrong tensor."""
        try:
            self._check_names(frame)
            if frame.kind is Kind.PROBE:
                self._check_probe(frame.tensors)
            elif frame.kind in (Kind.STEP, Kind.EVALUATE):
                self._check_window(frame)
        except WrongTensor as error:
            raise WrongTensor(
                f"{where}: {error}; a model must send the same tensors at every step, and both stages must run the "
                "same version of it"
            ) from None

    @property
    def value_names(self) -> list[str]:
        """The names in a frame of a value's tensors."""
        return [frame_name(VALUE, name) for name in self.value]

    def _check_names(self, frame: Frame) -> None:
        for name in _SCALARS:  # check first: "index" decides whether the receiver updates
            if name in frame.tensors:
                expect(name, frame.tensors[name], (), torch.int64)
        wanted = self._names(frame)
        check_piggybacked(self.piggybacked, frame.tensors)
        found = frame.tensors.keys() - ({"last"} if frame.kind is Kind.STEP else set()) - self.piggybacked.keys()
        if found != wanted:
            raise WrongTensor(f"it has the tensors {sorted(found)}, and the settings say {sorted(wanted)}")

    def _names(self, frame: Frame) -> set[str]:
        if frame.kind is Kind.PROBE:
            return {*self.value_names, "labels", "context", "windows"}
        if frame.kind not in (Kind.STEP, Kind.EVALUATE):
            return set()
        names = {"reset", "done"}
        if frame.kind is Kind.EVALUATE and self.numbered:
            names.add("index")
        if not self._receiver_updates(frame):
            return names
        names |= {*self.value_names, "labels"}
        return names | ({"context"} if frame.kind is Kind.STEP and self.context else set())

    def _receiver_updates(self, frame: Frame) -> bool:
        if self.every == 1 or (frame.kind is Kind.EVALUATE and "index" not in frame.tensors):
            return True
        number = frame.step if frame.kind is Kind.STEP else int(frame.tensors["index"])
        return number % self.every == 0

    def _check_window(self, frame: Frame) -> None:
        tensors, batch = frame.tensors, self.batch
        if self.smaller_steps if frame.kind is Kind.STEP else self.smaller:
            batch = self._batch_size(tensors["reset"])
        for name in ("reset", "done"):
            expect(name, tensors[name], (batch,), torch.bool)
        if "labels" not in tensors:
            return
        self._check_value(tensors, batch, self.steps or self._steps(tensors))
        if "context" in tensors:
            expect("context", tensors["context"], (batch, self.context), torch.int64)
            _expect_below("context", tensors["context"], self.context_symbols)

    def _check_probe(self, tensors: dict[str, Tensor]) -> None:
        windows, steps = tensors["windows"], self._steps(tensors)
        expect("windows", windows, (_size(windows, 0),), torch.int64)
        sizes = windows.tolist()
        if min(sizes, default=0) < 1 or sum(sizes) != steps:
            raise WrongTensor(f"'windows' are {sizes}, and 'value' has {steps} steps")
        self._check_value(tensors, self.batch, sum(sizes))
        context = tensors["context"]
        expect("context", context, (len(sizes), self.batch, self.context), torch.int64)
        _expect_below("context", context, self.context_symbols)

    def _check_value(self, tensors: dict[str, Tensor], batch: int, steps: int) -> None:
        streams = (batch, steps) if self.sequences else (batch,)
        for name, spec in self.value.items():
            tensor = tensors[frame_name(VALUE, name)]
            leading = {Rows.LABELS: streams, Rows.EXAMPLES: (batch,), Rows.NONE: ()}[spec.rows]
            shape = (*leading, *spec.shape)
            if len(shape) == tensor.dim():
                shape = tuple(size or tensor.shape[n] for n, size in enumerate(shape))
            expect(frame_name(VALUE, name), tensor, tuple(size or 0 for size in shape), spec.dtype)
        one = self.one_label and "windows" not in tensors
        labels = tensors["labels"]
        if self.numbers:
            expect("labels", labels, (*streams, self.numbers), torch.float32)
            return
        expect("labels", labels, (batch, 1) if one else streams, torch.int64)
        _expect_below("labels", labels, self.symbols)

    def _steps(self, tensors: dict[str, Tensor]) -> int:
        """Return T of a frame whose windows vary: that of the first tensor with a row for every label."""
        rows = [name for name, spec in self.value.items() if spec.rows is Rows.LABELS]
        return _size(tensors[frame_name(VALUE, rows[0])], 1) if rows else _size(tensors["labels"], 1)

    def _batch_size(self, reset: Tensor) -> int:
        """Return the size of a batch that may be the last one of its pass."""
        size = _size(reset, 0)
        return size if 0 < size <= self.batch else self.batch


def expect(name: str, tensor: Tensor, shape: Shape, dtype: torch.dtype, said_by: str = "the settings say") -> None:
    """Raise WrongTensor unless a tensor has this shape and dtype. `said_by` introduces them in the message."""
    if tensor.dtype is not dtype or tensor.shape != shape:
        raise WrongTensor(
            f"{name!r} is {_description(tensor.dtype, tensor.shape)}, {said_by} {_description(dtype, shape)}"
        )


def check_piggybacked(specs: Mapping[str, TensorSpec], tensors: Mapping[str, Tensor]) -> None:
    """Raise WrongTensor for a tensor that is not as its spec says; all of them may be missing."""
    for name in specs.keys() & tensors.keys():
        found, spec = tensors[name], specs[name]
        sizes = zip(spec.shape, found.shape, strict=False)
        shape = [actual if size is None else size for size, actual in sizes]
        expect(name, found, (*shape, *(size or 0 for size in spec.shape[len(shape) :])), spec.dtype)


def _expect_below(name: str, tensor: Tensor, symbols: int) -> None:
    if not tensor.numel():
        return
    lowest, highest = (int(each) for each in torch.aminmax(tensor))
    if lowest < IGNORED or highest >= symbols:
        raise WrongTensor(f"{name!r} are from {lowest} to {highest}, the settings say {IGNORED} to {symbols - 1}")


def _size(tensor: Tensor, dimension: int) -> int:
    return tensor.shape[dimension] if tensor.dim() > dimension else 0


def _description(dtype: torch.dtype, shape: Shape) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
