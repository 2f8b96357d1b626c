"""Split frames into one small message and the tensors that do not fit into it.

The message is the frame's header, as `workers.comm.header` encodes it, followed by the bytes of the tensors that fit,
in order. Other tensors are sent separately, and those with certain names from device to device. Both sides derive the
route of each tensor from the header.
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
from workers.comm.codec import Allocator, checksum_of, memory, new_tensor, verify
from workers.comm.frame import Frame
from workers.comm.header import begin_frame, make_header, read_header, read_specs, where, write_header
from workers.comm.roles import role_of

#: Longest message in bytes; more than `header.HEADER_BYTES`.
MESSAGE_BYTES = 128 * 2**10


class _Route(enum.Enum):
    """How a tensor travels."""

    INSIDE = enum.auto()  # in the message
    APART = enum.auto()  # separately, by gloo
    DIRECT = enum.auto()  # from device to device


class Packed(NamedTuple):
    """A frame ready to be sent. It owns its memory, except for `on_device`."""

    message: Tensor  #: (bytes,) of type uint8
    apart: list[Tensor]  #: contiguous CPU tensors, in order
    nbytes: int  #: size of the whole frame
    on_device: list[Tensor]  #: the unchanged tensors, in order


def pack(frame: Frame, *, checksum: bool = False, owned: bool = False, on_device: Collection[str] = ()) -> Packed:
    """Split a frame into a message and separate tensors, in memory of their own.

    Args:
        frame: the frame.
        checksum: add a checksum of the tensors.
        owned: the caller does not change the tensors, so do not copy them.
        on_device: names of tensors that travel from device to device unless they are empty.

    Raises UnknownDtype for an element type the wire does not know and ValueError for a header too big for it.
    """
    header = make_header(frame)
    tensors = [tensor.detach() for tensor in frame.tensors.values()]
    if checksum:
        header.payload_crc32 = checksum_of(map(memory, tensors))
    head = write_header(header)
    sizes = [(name, tensor.nbytes) for name, tensor in frame.tensors.items()]
    inside, apart, on_device_tensors = _by_route(tensors, _routes(len(head), sizes, on_device))
    message = bytearray().join((head, *map(memory, inside)))
    apart = apart if owned else [_copy(tensor) for tensor in apart]
    nbytes = len(head) + sum(size for _, size in sizes)
    return Packed(torch.frombuffer(message, dtype=torch.uint8), apart, nbytes, on_device_tensors)


@dataclass
class Arriving:
    """A frame whose header has arrived, with memory for the tensors that have not."""

    frame: Frame
    apart: list[Tensor]
    on_device: list[Tensor]
    header: stage_pb2.Header

    def finish(self) -> Frame:
        """Return the frame after its tensors have been received. Raises CorruptPayload for a wrong checksum."""
        try:
            verify(self.header, map(memory, self.frame.tensors.values()))
        except WireError as error:
            raise type(error)(f"{where(self.header)}: {error}") from None
        return self.frame


def unpack(
    message: memoryview, *, limit: int, allocate: Allocator = new_tensor, on_device: Collection[str] = ()
) -> Arriving:
    """Read a message; bytes after it are ignored.

    Args:
        message: (bytes,) of a message.
        limit: largest size of the frame in bytes.
        allocate: allocates the received tensors.
        on_device: as in `pack`.

    Raises as `workers.comm.codec.decode`.
    """
    header, position = read_header(message)
    try:
        frame, specs = begin_frame(header), read_specs(header, limit)
        nbytes = position + sum(spec.nbytes for spec in specs)
        if nbytes > limit:
            raise SizeMismatch(f"a frame of {nbytes} bytes; the limit is {limit}")
    except WireError as error:
        raise type(error)(f"{where(header)}: {error}") from None
    frame.tensors.update((spec.name, allocate(spec)) for spec in specs)
    routes = _routes(position, [(spec.name, spec.nbytes) for spec in specs], on_device)
    inside, apart, on_device_tensors = _by_route(frame.tensors.values(), routes)
    for chunk in map(memory, inside):
        chunk[:] = np.frombuffer(message, np.uint8, chunk.nbytes, position)
        position += chunk.nbytes
    return Arriving(frame, apart, on_device_tensors, header)


def _routes(used: int, sizes: Iterable[tuple[str, int]], on_device: Collection[str]) -> Iterator[_Route]:
    """Yield the route of each tensor, by name and size; the message already has `used` bytes."""
    for name, size in sizes:
        if role_of(name) in on_device and size:
            yield _Route.DIRECT
        elif used + size <= MESSAGE_BYTES:
            used += size
            yield _Route.INSIDE
        else:
            yield _Route.APART


def _by_route(tensors: Iterable[Tensor], routes: Iterable[_Route]) -> list[list[Tensor]]:
    """Group tensors by route: inside the message, apart, from device to device; each group in order."""
    pairs = list(zip(tensors, routes, strict=True))
    return [[tensor for tensor, its in pairs if its is route] for route in _Route]


def _copy(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor)
