"""Frames as bytes: valid protobuf, written and read by offset so that big tensors are copied once each way.

    0d <crc32 of header, 4 bytes>  12 <length> <header>  [7a <length> <payload>]

is message `Frame` of `proto/dni/v1/stage.proto`; the payload holds the tensors' bytes in the order of
`header.tensors`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import asdict, fields
from typing import Any
from zlib import crc32

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from dni.errors import (
    BadShape,
    CorruptHeader,
    CorruptPayload,
    SizeMismatch,
    TruncatedFrame,
    UnknownDtype,
    WireError,
)
from workers import stage_pb2
from workers.frame import Frame, Handshake, Kind

#: The most bytes a frame may have unless told otherwise.
FRAME_BYTES = 256 * 2**20
#: The most bytes a header may have: bounds what a header can make its reader allocate.
HEADER_BYTES = 64 * 2**10

_CHECKSUM = struct.Struct("<BI")
_CHECKSUM_TAG, _HEADER_TAG, _PAYLOAD_TAG = 0x0D, 0x12, 0x7A
_MOST_DIMENSIONS = 64  # torch's own limit

_DTYPES: dict[torch.dtype, int] = {
    torch.float32: stage_pb2.DTYPE_FLOAT32,
    torch.float64: stage_pb2.DTYPE_FLOAT64,
    torch.float16: stage_pb2.DTYPE_FLOAT16,
    torch.bfloat16: stage_pb2.DTYPE_BFLOAT16,
    torch.int8: stage_pb2.DTYPE_INT8,
    torch.int16: stage_pb2.DTYPE_INT16,
    torch.int32: stage_pb2.DTYPE_INT32,
    torch.int64: stage_pb2.DTYPE_INT64,
    torch.uint8: stage_pb2.DTYPE_UINT8,
    torch.bool: stage_pb2.DTYPE_BOOL,
}
_TORCH_DTYPES = {code: dtype for dtype, code in _DTYPES.items()}
_KINDS: dict[int, Kind] = {kind.value: kind for kind in Kind}
_HANDSHAKE = [field.name for field in fields(Handshake)]


def _check_tables() -> None:
    """At import: every value of the protobuf enums and every field of the handshake is handled here."""
    same = {
        "DType": set(stage_pb2.DType.values()) - {0} == set(_TORCH_DTYPES),
        "Kind": {name: value for name, value in stage_pb2.Kind.items() if value}
        == {f"KIND_{kind.name}": kind.value for kind in Kind},
        "Handshake": list(stage_pb2.Handshake.DESCRIPTOR.fields_by_name) == _HANDSHAKE,
    }
    if not all(same.values()):
        wrong = [name for name, equal in same.items() if not equal]
        raise ImportError(f"workers.wire and workers.stage_pb2 disagree about {wrong}: regenerate stage_pb2")


_check_tables()


def encode(frame: Frame, *, checksum: bool = False) -> bytes:
    """The frame's bytes; tensors of any shape, layout and device. `checksum` covers the payload too.

    Raises UnknownDtype for an element type the wire does not know and ValueError for a header too big for it.
    """
    header = stage_pb2.Header(
        kind=frame.kind.value,  # type: ignore[arg-type]
        step=frame.step,
        sequence=frame.sequence,
        done_through=frame.done_through,
        stage=frame.stage,
    )
    if frame.handshake is not None:
        header.handshake.CopyFrom(stage_pb2.Handshake(**asdict(frame.handshake)))
    chunks = []
    for name, tensor in frame.tensors.items():
        if tensor.dtype not in _DTYPES:
            known = f"convert it to one of {[*_DTYPES]}"
            raise UnknownDtype(f"{_where(header)}: tensor {name!r} is {tensor.dtype}; {known}")
        header.tensors.add(name=name, dtype=_DTYPES[tensor.dtype], shape=tensor.shape)
        chunks.append(_memory(tensor))
    return _join(header, chunks, checksum)


def _join(header: stage_pb2.Header, chunks: list[Any], checksum: bool) -> bytes:
    if checksum:
        value = 0
        for chunk in chunks:
            value = crc32(chunk, value)
        header.payload_crc32 = value
    head = header.SerializeToString()
    if len(head) > HEADER_BYTES:
        raise ValueError(f"{_where(header)}: a header of {len(head)} bytes; the limit is {HEADER_BYTES}")
    start = _CHECKSUM.pack(_CHECKSUM_TAG, crc32(head)) + _field(_HEADER_TAG, len(head)) + head
    nbytes = sum(chunk.nbytes for chunk in chunks)
    if nbytes:
        start += _field(_PAYLOAD_TAG, nbytes)
    return b"".join((start, *chunks))


def decode(data: bytes, *, limit: int = FRAME_BYTES) -> Frame:
    """The frame that `data` holds; its tensors own their memory and may be written to.

    Raises the WireError that says what is wrong: TruncatedFrame, CorruptHeader, CorruptPayload, UnknownDtype,
    BadShape or SizeMismatch (also for more than `limit` bytes).
    """
    if len(data) > limit:
        raise SizeMismatch(f"a frame of {len(data)} bytes; the limit is {limit}")
    header, position = _read_header(data)
    try:
        return _read_frame(header, data, position, limit)
    except WireError as error:
        raise type(error)(f"{_where(header)}: {error}") from None


def _read_frame(header: stage_pb2.Header, data: bytes, position: int, limit: int) -> Frame:
    _check_header(header)
    offset = _find_payload(data, position)
    specs = [(spec.name, *_read_spec(spec, limit)) for spec in header.tensors]
    _check_payload(header, memoryview(data)[offset:], sum(nbytes for *_, nbytes in specs), offset == position)
    frame = Frame(
        kind=_KINDS[header.kind],
        step=header.step,
        sequence=header.sequence,
        done_through=header.done_through,
        stage=header.stage,
    )
    if header.HasField("handshake"):
        frame.handshake = Handshake(**{name: getattr(header.handshake, name) for name in _HANDSHAKE})
    for name, dtype, shape, nbytes in specs:
        frame.tensors[name] = tensor = torch.empty(shape, dtype=dtype, device="cpu")
        _memory(tensor)[:] = np.frombuffer(data, np.uint8, nbytes, offset)
        offset += nbytes
    return frame


def _read_header(data: bytes) -> tuple[stage_pb2.Header, int]:
    """The verified header and the position after it."""
    if len(data) < _CHECKSUM.size:
        raise TruncatedFrame(f"{len(data)} bytes, fewer than the {_CHECKSUM.size} a frame starts with")
    tag, expected = _CHECKSUM.unpack_from(data)
    if tag != _CHECKSUM_TAG:
        raise CorruptHeader(f"the first byte is {tag:#04x}, not {_CHECKSUM_TAG:#04x}: this is not a frame")
    length, start = _read_field(data, _CHECKSUM.size, _HEADER_TAG)
    if length > HEADER_BYTES:
        raise CorruptHeader(f"a header of {length} bytes; the limit is {HEADER_BYTES}")
    if start + length > len(data):
        raise TruncatedFrame(f"the header has {len(data) - start} of {length} bytes")
    head = data[start : start + length]
    if crc32(head) != expected:
        raise CorruptHeader(f"the header's checksum is {crc32(head):#010x}, announced was {expected:#010x}")
    try:
        return stage_pb2.Header.FromString(head), start + length
    except DecodeError as error:
        raise CorruptHeader(f"the header is not a protobuf message: {error}") from None


def _check_header(header: stage_pb2.Header) -> None:
    if header.kind not in _KINDS:
        raise CorruptHeader(f"frame kind {header.kind} is unknown here; do both ends run the same version?")
    if header.HasField("handshake") != (_KINDS[header.kind] is Kind.HANDSHAKE):
        raise CorruptHeader("handshake fields belong to HANDSHAKE frames, and to no others")
    names = [spec.name for spec in header.tensors]
    if len(set(names)) != len(names):
        raise CorruptHeader(f"tensor names {names} are not unique")


def _find_payload(data: bytes, position: int) -> int:
    """Where the payload's bytes start: `position` itself if it is absent. They end with the data."""
    if position == len(data):
        return position
    length, start = _read_field(data, position, _PAYLOAD_TAG)
    if length > len(data) - start:
        raise TruncatedFrame(f"{len(data) - start} of {length} payload bytes")
    if length < len(data) - start:
        raise SizeMismatch(f"{len(data) - start - length} bytes follow a payload of {length}")
    return start


def _read_spec(spec: stage_pb2.TensorSpec, limit: int) -> tuple[torch.dtype, tuple[int, ...], int]:
    """A tensor's dtype, shape and byte count."""
    dtype, shape = _TORCH_DTYPES.get(spec.dtype), tuple(spec.shape)
    if dtype is None:
        raise UnknownDtype(f"tensor {spec.name!r} has element type {spec.dtype}, unknown here")
    nbytes = math.prod(shape) * dtype.itemsize
    strides = math.prod(size or 1 for size in shape)  # an empty tensor's strides, too, must fit into 64 bits
    if min(shape, default=0) < 0 or nbytes > limit or strides >= 2**60 or len(shape) > _MOST_DIMENSIONS:
        raise BadShape(f"tensor {spec.name!r} has shape {shape[:9]}; the limit is {limit} bytes")
    return dtype, shape, nbytes


def _check_payload(header: stage_pb2.Header, payload: memoryview, expected: int, absent: bool) -> None:
    if absent and expected:
        raise TruncatedFrame(f"no payload where the shapes say {expected} bytes")
    if len(payload) != expected:
        raise SizeMismatch(f"a payload of {len(payload)} bytes where the shapes say {expected}")
    if header.HasField("payload_crc32") and crc32(payload) != header.payload_crc32:
        announced = header.payload_crc32
        raise CorruptPayload(f"the payload's checksum is {crc32(payload):#010x}, announced was {announced:#010x}")


def _where(header: stage_pb2.Header) -> str:
    return f"step {header.step} from stage {header.stage}"


def _memory(tensor: Tensor) -> Any:
    """A tensor's bytes as a flat array of uint8: its own memory if it is contiguous and on the CPU."""
    dense = tensor.detach().cpu().contiguous()
    flat = dense.as_strided((dense.numel(),), (1,))  # with 0 or 1 elements any stride counts as contiguous
    return flat.view(torch.uint8).numpy()


def _field(tag: int, length: int) -> bytes:
    out = bytearray((tag,))
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


def _read_field(data: bytes, position: int, tag: int) -> tuple[int, int]:
    """Length of the field that starts at `position`, and where its bytes start."""
    if position < len(data) and data[position] != tag:
        raise CorruptHeader(f"byte {position} is {data[position]:#04x} where a field starts with {tag:#04x}")
    length = 0
    for count, byte in enumerate(data[position + 1 : position + 11]):
        length |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return length, position + 2 + count
    if position + 11 <= len(data):
        raise CorruptHeader(f"the length at byte {position + 1} has more than 10 bytes")
    raise TruncatedFrame(f"{len(data)} bytes, which end inside a field's length")
