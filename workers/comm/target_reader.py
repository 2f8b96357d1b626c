"""Read targets from upstream frames and check them against the values that were sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from dni.errors import WireError, WrongTensor
from dni.named_tensors import Value, floating, named
from workers.comm.contents import Shape, TensorSpec, check_piggybacked, expect
from workers.comm.edge import Loss, Target
from workers.comm.frame import Frame, Kind
from workers.comm.roles import GRADIENT, frame_name, value_in, without

#: Shape and element type of the tensors with a gradient, by name.
_Sent: TypeAlias = dict[str, tuple[Shape, torch.dtype]]

_BESIDE = {"late", "losses"}


class TargetReader:
    """Checks that each gradient has the shape and element type of its value.

    Args:
        memory: newest training steps whose shape and element type are remembered.
        piggybacked: further tensors that a reply may have.
    """

    def __init__(self, memory: int, piggybacked: Mapping[str, TensorSpec] = MappingProxyType({})) -> None:
        self._memory, self._piggybacked = memory, piggybacked
        self._sent: dict[int, _Sent] = {}
        self._exchanged: _Sent | None = None

    def remember(self, kind: Kind, step: int, value: Value) -> None:
        """Record a value that is sent. For frames of other kinds than STEP, only the last one is kept."""
        sent: _Sent = {name: (tensor.shape, tensor.dtype) for name, tensor in floating(value).items()}
        if kind is not Kind.STEP:
            self._exchanged = sent
            return
        self._sent[step] = sent
        if len(self._sent) > self._memory:
            del self._sent[next(iter(self._sent))]

    def read(self, frame: Frame, where: str, *, exchange: bool) -> Target | WireError:
        """Return the target in a frame, or the error to report for it.

        `exchange`: the frame may be the reply to an exchange, whose gradient is not a training target.
        """
        try:
            return self._read(frame, exchange)
        except WrongTensor as error:
            return WrongTensor(f"{where}: {error}")

    def _read(self, frame: Frame, exchange: bool) -> Target:
        tensors, gradient = frame.tensors, value_in(GRADIENT, frame.tensors)
        beside = without(GRADIENT, tensors).keys() - self._piggybacked.keys()
        if (gradient is not None) != (frame.kind is Kind.GRADIENT) or beside - _BESIDE:
            wanted = sorted([GRADIENT] if frame.kind is Kind.GRADIENT else [])
            raise WrongTensor(f"it has the tensors {sorted(tensors)}, expected {wanted}")
        late = _late(tensors)
        if gradient is not None:
            sent = self._of(frame.step - late, gradient) if late or not exchange else self._of_exchange()
            self._expect_like(sent, gradient, frame.step - late)
        check_piggybacked(self._piggybacked, tensors)
        piggybacked = {name: tensors[name] for name in tensors if name in self._piggybacked}
        return Target(frame.step, gradient, _losses(tensors), late, piggybacked or None)

    def _expect_like(self, sent: _Sent, gradient: Value, step: int) -> None:
        """Raise WrongTensor unless every tensor of the gradient is like that of the value; a missing one is zero."""
        for name, each in named(gradient).items():
            if name not in sent:
                raise WrongTensor(f"it has a gradient {name!r}, and the value of step {step} had {sorted(sent)}")
            shape, dtype = sent[name]
            expect(frame_name(GRADIENT, name), each, shape, dtype, f"the value of step {step} was")

    def _of(self, step: int, gradient: Value) -> _Sent:
        """Return what a step's value was like; for a step before a resume what a later one was, with its own T."""
        if step in self._sent:
            return self._sent[step]
        if not self._sent or step > min(self._sent):
            raise WrongTensor(f"it has a gradient of step {step}, for which no value was sent")
        like, found = next(iter(self._sent.values())), named(gradient)
        return {n: (_as_long(shape, found[n]), dtype) for n, (shape, dtype) in like.items() if n in found}

    def _of_exchange(self) -> _Sent:
        assert self._exchanged is not None, "it was sent before"
        return self._exchanged


def _as_long(shape: Shape, gradient: Tensor) -> Shape:
    """Return the shape with the gradient's number of steps, where both are (B, T, D)."""
    return (shape[0], gradient.shape[1], shape[2]) if len(shape) == gradient.dim() == 3 else shape


def _late(tensors: dict[str, Tensor]) -> int:
    if "late" not in tensors:
        return 0
    expect("late", tensors["late"], (), torch.int64, "it should be")
    late = int(tensors["late"])
    if late < 0:
        raise WrongTensor(f"'late' is {late}, it should be 0 or more")
    return late


def _losses(tensors: dict[str, Tensor]) -> tuple[Loss, ...]:
    if "losses" not in tensors:
        return ()
    losses = tensors["losses"]
    expect("losses", losses, (losses.shape[0] if losses.dim() else 0, 3), torch.float64, "they should be")
    rows = losses.tolist()
    if not all(math.isfinite(step) and math.isfinite(count) for step, _, count in rows):
        raise WrongTensor(f"'losses' are {rows}, where steps and counts should be numbers")
    return tuple(Loss(int(step), nats, int(count)) for step, nats, count in rows)
