"""Frames as bytes: valid protobuf, written and read by offset so that big tensors are copied once each way.

    0d <crc32 of header, 4 bytes>  12 <length> <header>  [7a <length> <payload>]

is message `Frame` of `proto/dni/v1/stage.proto`; the payload holds the tensors' bytes in the order of
`header.tensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from dni.errors import CorruptHeader, CorruptPayload, SizeMismatch, TruncatedFrame, WireError
from workers import stage_pb2
from workers.comm.frame import Frame
from workers.comm.header import (
    Spec,
    begin_frame,
    make_header,
    read_field,
    read_header,
    read_specs,
    where,
    write_field,
    write_header,
)
from workers.comm.shared_memory import Rings

#: The most bytes a frame may have unless told otherwise.
FRAME_BYTES = 256 * 2**20

_PAYLOAD_TAG = 0x7A


def room_for(spec: Spec) -> Tensor:
    """Uninitialised memory for a tensor."""
    return torch.empty(spec.shape, dtype=spec.dtype, device="cpu")


#: Where the memory of received tensors comes from.
Room: TypeAlias = Callable[[Spec], Tensor]


def encode(frame: Frame, *, checksum: bool = False, rings: Rings | None = None) -> bytes:
    """The frame's bytes; tensors of any shape, layout and device. `checksum` covers the payload too.

    A payload for which there is room in `rings` is left there.

    Raises UnknownDtype for an element type the wire does not know and ValueError for a header too big for it.
    """
    header = make_header(frame)
    chunks = [memory(tensor) for tensor in frame.tensors.values()]
    if checksum:
        header.payload_crc32 = checksum_of(chunks)
    nbytes = sum(chunk.nbytes for chunk in chunks)
    if rings is not None and rings.leave(header, chunks, nbytes):
        chunks, nbytes = [], 0
    start = write_header(header)
    if nbytes:
        start += write_field(_PAYLOAD_TAG, nbytes)
    return b"".join((start, *chunks))


def most_bytes(frame: Frame) -> int:
    """What `encode` will make at most, before it is done. Raises as `encode`."""
    return len(write_header(make_header(frame))) + sum(tensor.nbytes for tensor in frame.tensors.values()) + 16


def decode(data: bytes, *, limit: int = FRAME_BYTES, room: Room = room_for, rings: Rings | None = None) -> Frame:
    """The frame that `data` holds; its tensors own their memory and may be written to.

    Raises the WireError that says what is wrong: TruncatedFrame, CorruptHeader, CorruptPayload, UnknownDtype,
    BadShape or SizeMismatch (also for more than `limit` bytes).
    """
    if len(data) > limit:
        raise SizeMismatch(f"a frame of {len(data)} bytes; the limit is {limit}")
    header, position = read_header(data)
    try:
        return _read_frame(header, data, position, limit, room, rings)
    except WireError as error:
        raise type(error)(f"{where(header)}: {error}") from None


def _read_frame(
    header: stage_pb2.Header, data: bytes, position: int, limit: int, room: Room, rings: Rings | None
) -> Frame:
    frame = begin_frame(header)
    specs = read_specs(header, limit)
    expected, in_ring = sum(spec.nbytes for spec in specs), header.HasField("ring_position")
    if rings is not None:
        rings.heed(header)
    if in_ring:
        payload = _in_ring(header, rings, expected, data, position)
    else:
        payload = memoryview(data)[_find_payload(data, position) :]
    _check_size(payload, expected, not in_ring and position == len(data))
    verify(header, [payload])
    offset = 0
    for spec in specs:
        frame.tensors[spec.name] = tensor = room(spec)
        memory(tensor)[:] = np.frombuffer(payload, np.uint8, spec.nbytes, offset)
        offset += spec.nbytes
    if in_ring and rings is not None:
        rings.read_through = header.ring_position + expected
    return frame


def _in_ring(header: stage_pb2.Header, rings: Rings | None, nbytes: int, data: bytes, position: int) -> Any:
    """The payload in the peer's ring, where the frame ends after its header."""
    if rings is None:
        raise CorruptHeader(f"the payload is said to be at byte {header.ring_position} of a ring; this link has none")
    if position != len(data):
        raise SizeMismatch(f"{len(data) - position} bytes follow the header of a frame whose payload is in the ring")
    return rings.view(header.ring_position, nbytes)


def _find_payload(data: bytes, position: int) -> int:
    """Where the payload's bytes start: `position` itself if it is absent. They end with the data."""
    if position == len(data):
        return position
    length, start = read_field(data, position, _PAYLOAD_TAG)
    if length > len(data) - start:
        raise TruncatedFrame(f"{len(data) - start} of {length} payload bytes")
    if length < len(data) - start:
        raise SizeMismatch(f"{len(data) - start - length} bytes follow a payload of {length}")
    return start


def _check_size(payload: Any, expected: int, absent: bool) -> None:
    if absent and expected:
        raise TruncatedFrame(f"no payload where the shapes say {expected} bytes")
    if len(payload) != expected:
        raise SizeMismatch(f"a payload of {len(payload)} bytes where the shapes say {expected}")


def checksum_of(chunks: Iterable[Any]) -> int:
    """The crc32 of these bytes, one after another."""
    value = 0
    for chunk in chunks:
        value = crc32(chunk, value)
    return value


def verify(header: stage_pb2.Header, chunks: Iterable[Any]) -> None:
    """Raises CorruptPayload if the header announces a checksum, and it is not that of the payload in these chunks."""
    if not header.HasField("payload_crc32"):
        return
    value, announced = checksum_of(chunks), header.payload_crc32
    if value != announced:
        raise CorruptPayload(f"the payload's checksum is {value:#010x}, announced was {announced:#010x}")


def memory(tensor: Tensor) -> Any:
    """A tensor's bytes as a flat array of uint8: its own memory if it is contiguous and on the CPU.

    Most calls into torch let go of the interpreter's lock, for which the threads of a link are waiting: few are made.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    if not (tensor.is_cpu and tensor.is_contiguous()):
        tensor = tensor.cpu().contiguous()
    if tensor.dtype is torch.bfloat16:  # which numpy does not know
        tensor = tensor.view(torch.int16)
    return tensor.numpy().reshape(-1).view(np.uint8)
