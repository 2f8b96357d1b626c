"""A frame as one small message, and the tensors that did not fit into it.

The message is the frame's header, as `workers.comm.header` writes it, and the bytes of those tensors, in their
order, that still fit; the others travel on their own, and some, known by their names, from device to device. Both
sides work out from the header which those are.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dni.errors import SizeMismatch, WireError
from workers import stage_pb2
from workers.comm.codec import Room, checksum_of, memory, room_for, verify
from workers.comm.frame import Frame
from workers.comm.header import begin_frame, make_header, read_header, read_specs, where, write_header
from workers.comm.roles import role_of

#: Bytes of the longest message; more than `header.HEADER_BYTES`.
MESSAGE_BYTES = 128 * 2**10


class _Route(enum.Enum):
    """How a tensor travels."""

    INSIDE = enum.auto()  # in the message
    APART = enum.auto()
    DIRECT = enum.auto()


class Packed(NamedTuple):
    """A frame ready to be sent, in memory of its own but for the tensors that travel from device to device."""

    message: Tensor  #: (bytes,) of type uint8
    apart: list[Tensor]  #: contiguous, on the CPU, in order
    nbytes: int  #: of the whole frame
    on_device: list[Tensor]  #: as they were, in order


def pack(frame: Frame, *, checksum: bool = False, own: bool = False, on_device: Collection[str] = ()) -> Packed:
    """Copy a frame, unless it is nobody else's (`own`); `checksum` covers the tensors too.

    `on_device` names the tensors that travel from device to device, unless they are empty.

    Raises UnknownDtype for an element type the wire does not know and ValueError for a header too big for it.
    """
    header = make_header(frame)
    tensors = [tensor.detach() for tensor in frame.tensors.values()]
    if checksum:
        header.payload_crc32 = checksum_of(map(memory, tensors))
    head = write_header(header)
    sizes = [(name, tensor.nbytes) for name, tensor in frame.tensors.items()]
    inside, apart, beside = _by_route(tensors, _routes(len(head), sizes, on_device))
    message = bytearray().join((head, *map(memory, inside)))
    apart = apart if own else [_copy(tensor) for tensor in apart]
    nbytes = len(head) + sum(size for _, size in sizes)
    return Packed(torch.frombuffer(message, dtype=torch.uint8), apart, nbytes, beside)


@dataclass
class Arriving:
    """A frame whose header is here, and room for the tensors that are still to come."""

    frame: Frame
    apart: list[Tensor]
    on_device: list[Tensor]
    header: stage_pb2.Header

    def finish(self) -> Frame:
        """The frame, once its tensors are filled. Raises CorruptPayload if they do not match their checksum."""
        try:
            verify(self.header, map(memory, self.frame.tensors.values()))
        except WireError as error:
            raise type(error)(f"{where(self.header)}: {error}") from None
        return self.frame


def unpack(message: memoryview, *, limit: int, room: Room = room_for, on_device: Collection[str] = ()) -> Arriving:
    """Read a message, which may be followed by anything; `limit`: most bytes of the frame; `on_device`: as in `pack`.

    Raises the errors of `wire.decode`.
    """
    header, position = read_header(message)
    try:
        frame, specs = begin_frame(header), read_specs(header, limit)
        nbytes = position + sum(spec.nbytes for spec in specs)
        if nbytes > limit:
            raise SizeMismatch(f"a frame of {nbytes} bytes; the limit is {limit}")
    except WireError as error:
        raise type(error)(f"{where(header)}: {error}") from None
    frame.tensors.update((spec.name, room(spec)) for spec in specs)
    routes = _routes(position, [(spec.name, spec.nbytes) for spec in specs], on_device)
    inside, apart, beside = _by_route(frame.tensors.values(), routes)
    for chunk in map(memory, inside):
        chunk[:] = np.frombuffer(message, np.uint8, chunk.nbytes, position)
        position += chunk.nbytes
    return Arriving(frame, apart, beside, header)


def _routes(used: int, sizes: Iterable[tuple[str, int]], on_device: Collection[str]) -> Iterator[_Route]:
    """How tensors of these names and sizes travel, beginning with a message of which so many bytes are used."""
    for name, size in sizes:
        if role_of(name) in on_device and size:
            yield _Route.DIRECT
        elif used + size <= MESSAGE_BYTES:
            used += size
            yield _Route.INSIDE
        else:
            yield _Route.APART


def _by_route(tensors: Iterable[Tensor], routes: Iterable[_Route]) -> list[list[Tensor]]:
    """Those inside the message, those apart from it and those that go from device to device, each in order."""
    pairs = list(zip(tensors, routes, strict=True))
    return [[tensor for tensor, its in pairs if its is route] for route in _Route]


def _copy(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor)
