"""Encode and decode frames. The bytes are valid protobuf, accessed by offset, so each big tensor is copied only once.

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

#: Default limit of a frame's size in bytes.
FRAME_BYTES = 256 * 2**20

_PAYLOAD_TAG = 0x7A


def new_tensor(spec: Spec) -> Tensor:
    """Return an uninitialised CPU tensor."""
    return torch.empty(spec.shape, dtype=spec.dtype, device="cpu")


#: Allocates the memory of a received tensor.
Allocator: TypeAlias = Callable[[Spec], Tensor]


def encode(frame: Frame, *, checksum: bool = False, rings: Rings | None = None) -> bytes:
    """Return the frame's bytes. Tensors may have any shape, layout and device.

    `checksum` adds a checksum of the payload. A payload that fits into the ring of `rings` goes there instead.

    Raises UnknownDtype for an element type the wire does not know and ValueError for a header too big for it.
    """
    header = make_header(frame)
    chunks = [memory(tensor) for tensor in frame.tensors.values()]
    if checksum:
        header.payload_crc32 = checksum_of(chunks)
    nbytes = sum(chunk.nbytes for chunk in chunks)
    if rings is not None and rings.attach(header, chunks, nbytes):
        chunks, nbytes = [], 0
    head = write_header(header)
    if nbytes:
        head += write_field(_PAYLOAD_TAG, nbytes)
    return b"".join((head, *chunks))


def max_encoded_bytes(frame: Frame) -> int:
    """Return an upper bound of the length of `encode(frame)`, without encoding it. Raises as `encode`."""
    return len(write_header(make_header(frame))) + sum(tensor.nbytes for tensor in frame.tensors.values()) + 16


def decode(
    data: bytes, *, limit: int = FRAME_BYTES, allocate: Allocator = new_tensor, rings: Rings | None = None
) -> Frame:
    """Decode a frame. Its tensors own their memory and are writable.

    Raises a WireError: TruncatedFrame, CorruptHeader, CorruptPayload, UnknownDtype,
    BadShape or SizeMismatch (also for more than `limit` bytes).
    """
    if len(data) > limit:
        raise SizeMismatch(f"a frame of {len(data)} bytes; the limit is {limit}")
    header, position = read_header(data)
    try:
        return _read_frame(header, data, position, limit, allocate, rings)
    except WireError as error:
        raise type(error)(f"{where(header)}: {error}") from None


def _read_frame(
    header: stage_pb2.Header, data: bytes, position: int, limit: int, allocate: Allocator, rings: Rings | None
) -> Frame:
    frame = begin_frame(header)
    specs = read_specs(header, limit)
    expected, in_ring = sum(spec.nbytes for spec in specs), header.HasField("ring_position")
    if rings is not None:
        rings.apply(header)
    if in_ring:
        payload = _in_ring(header, rings, expected, data, position)
    else:
        payload = memoryview(data)[_find_payload(data, position) :]
    _check_size(payload, expected, not in_ring and position == len(data))
    verify(header, [payload])
    offset = 0
    for spec in specs:
        frame.tensors[spec.name] = tensor = allocate(spec)
        memory(tensor)[:] = np.frombuffer(payload, np.uint8, spec.nbytes, offset)
        offset += spec.nbytes
    if in_ring and rings is not None:
        rings.read_through = header.ring_position + expected
    return frame


def _in_ring(header: stage_pb2.Header, rings: Rings | None, nbytes: int, data: bytes, position: int) -> Any:
    """Return the payload of a frame that consists of its header only, from the peer's ring."""
    if rings is None:
        raise CorruptHeader(f"the payload should be at byte {header.ring_position} of a ring; this link has none")
    if position != len(data):
        raise SizeMismatch(f"{len(data) - position} bytes follow the header of a frame whose payload is in the ring")
    return rings.view(header.ring_position, nbytes)


def _find_payload(data: bytes, position: int) -> int:
    """Return where the payload's bytes start; they end with the data. Return `position` if there is no payload."""
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
    """Return the crc32 of the concatenated chunks."""
    value = 0
    for chunk in chunks:
        value = crc32(chunk, value)
    return value


def verify(header: stage_pb2.Header, chunks: Iterable[Any]) -> None:
    """Raise CorruptPayload if the header has a checksum that differs from that of the payload in `chunks`."""
    if not header.HasField("payload_crc32"):
        return
    value, announced = checksum_of(chunks), header.payload_crc32
    if value != announced:
        raise CorruptPayload(f"the payload's checksum is {value:#010x}, expected {announced:#010x}")


def memory(tensor: Tensor) -> Any:
    """Return a tensor's bytes as a flat array of uint8: a view if it is contiguous and on the CPU, else a copy.

    Makes few calls into torch: most of them release the GIL to the other threads of the link.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    if not (tensor.is_cpu and tensor.is_contiguous()):
        tensor = tensor.cpu().contiguous()
    if tensor.dtype is torch.bfloat16:  # numpy has no bfloat16
        tensor = tensor.view(torch.int16)
    return tensor.numpy().reshape(-1).view(np.uint8)
