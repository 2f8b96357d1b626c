"""A frame as one small message, and the tensors that did not fit into it.

The message is the frame's header, as `workers.header` writes it, and the bytes of those tensors, in their order, that
still fit; the others travel on their own. Both sides work out from the header which those are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dni.errors import SizeMismatch, WireError
from workers import stage_pb2
from workers.frame import Frame
from workers.header import begin_frame, make_header, read_header, read_specs, where, write_header
from workers.wire import Room, checksum_of, memory, room_for, verify

#: Bytes of the longest message; more than `header.HEADER_BYTES`.
MESSAGE_BYTES = 128 * 2**10


class Packed(NamedTuple):
    """A frame ready to be sent, in memory of its own."""

    message: Tensor  #: (bytes,) of type uint8
    apart: list[Tensor]  #: contiguous, on the CPU, in order
    nbytes: int  #: of the whole frame


def pack(frame: Frame, *, checksum: bool = False, own: bool = False) -> Packed:
    """Copy a frame, unless it is nobody else's (`own`); `checksum` covers the tensors too.

    Raises UnknownDtype for an element type the wire does not know and ValueError for a header too big for it.
    """
    header = make_header(frame)
    tensors = [tensor.detach() for tensor in frame.tensors.values()]
    if checksum:
        header.payload_crc32 = checksum_of(map(memory, tensors))
    head = write_header(header)
    inside = list(_fitting(len(head), [tensor.nbytes for tensor in tensors]))
    message = bytearray().join((head, *(memory(t) for t, fits in zip(tensors, inside, strict=True) if fits)))
    apart = [t if own else _copy(t) for t, fits in zip(tensors, inside, strict=True) if not fits]
    nbytes = len(head) + sum(tensor.nbytes for tensor in tensors)
    return Packed(torch.frombuffer(message, dtype=torch.uint8), apart, nbytes)


@dataclass
class Arriving:
    """A frame whose header is here, and room for the tensors that are still to come."""

    frame: Frame
    apart: list[Tensor]
    header: stage_pb2.Header

    def finish(self) -> Frame:
        """The frame, once its tensors are filled. Raises CorruptPayload if they do not match their checksum."""
        try:
            verify(self.header, map(memory, self.frame.tensors.values()))
        except WireError as error:
            raise type(error)(f"{where(self.header)}: {error}") from None
        return self.frame


def unpack(message: memoryview, *, limit: int, room: Room = room_for) -> Arriving:
    """Read a message, which may be followed by anything; `limit`: most bytes of the frame.

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
    inside = list(_fitting(position, [spec.nbytes for spec in specs]))
    for spec, fits in zip(specs, inside, strict=True):
        frame.tensors[spec.name] = tensor = room(spec)
        if fits:
            memory(tensor)[:] = np.frombuffer(message, np.uint8, spec.nbytes, position)
            position += spec.nbytes
    apart = [t for t, fits in zip(frame.tensors.values(), inside, strict=True) if not fits]
    return Arriving(frame, apart, header)


def _fitting(used: int, sizes: list[int]) -> Iterator[bool]:
    """Which tensors fit into a message of which so many bytes are used."""
    for size in sizes:
        fits = used + size <= MESSAGE_BYTES
        used += size if fits else 0
        yield fits


def _copy(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor)
