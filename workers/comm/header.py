"""Encode and decode the header of a frame: its kind and numbers, and its tensors' names, types and shapes.

    0d <crc32 of header, 4 bytes>  12 <length> <header>

starts every message `Frame` of `proto/dni/v1/stage.proto`. `workers.comm.codec` appends the tensors' bytes; a link may
send them separately.
"""

from __future__ import annotations

import math
import struct
from dataclasses import asdict, fields
from typing import NamedTuple
from zlib import crc32

import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from dni.errors import BadShape, CorruptHeader, TruncatedFrame, UnknownDtype
from workers import stage_pb2
from workers.comm.frame import Frame, Handshake, Kind

#: Limit of a header's size in bytes; it bounds what a header can make its reader allocate.
HEADER_BYTES = 64 * 2**10

_CHECKSUM = struct.Struct("<BI")
_CHECKSUM_TAG, _HEADER_TAG = 0x0D, 0x12
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
    """Check at import that this module knows every value of the protobuf enums and every field of the handshake."""
    same = {
        "DType": set(stage_pb2.DType.values()) - {0} == set(_TORCH_DTYPES),
        "Kind": {name: value for name, value in stage_pb2.Kind.items() if value}
        == {f"KIND_{kind.name}": kind.value for kind in Kind},
        "Handshake": list(stage_pb2.Handshake.DESCRIPTOR.fields_by_name) == _HANDSHAKE,
    }
    if not all(same.values()):
        wrong = [name for name, equal in same.items() if not equal]
        raise ImportError(f"workers.comm.header and workers.stage_pb2 disagree about {wrong}: regenerate stage_pb2")


_check_tables()


class Spec(NamedTuple):
    """Description of one tensor in a header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int


def can_send(tensor: Tensor) -> bool:
    """Return whether the wire format has the element type and the layout of a tensor."""
    return tensor.dtype in _DTYPES and tensor.layout is torch.strided


def make_header(frame: Frame) -> stage_pb2.Header:
    """Build a frame's header. Raises UnknownDtype for an element type that the wire format lacks."""
    header = stage_pb2.Header(
        kind=frame.kind.value,  # type: ignore[arg-type]
        step=frame.step,
        sequence=frame.sequence,
        done_through=frame.done_through,
        stage=frame.stage,
    )
    if frame.handshake is not None:
        header.handshake.CopyFrom(stage_pb2.Handshake(**asdict(frame.handshake)))
    for name, tensor in frame.tensors.items():
        if tensor.dtype not in _DTYPES:
            known = f"convert it to one of {[*_DTYPES]}"
            raise UnknownDtype(f"{where(header)}: tensor {name!r} is {tensor.dtype}; {known}")
        header.tensors.add(name=name, dtype=_DTYPES[tensor.dtype], shape=tensor.shape)
    return header


def write_header(header: stage_pb2.Header) -> bytes:
    """Encode a header with its checksum. Raises ValueError if it is too big."""
    head = header.SerializeToString()
    if len(head) > HEADER_BYTES:
        raise ValueError(f"{where(header)}: a header of {len(head)} bytes; the limit is {HEADER_BYTES}")
    return _CHECKSUM.pack(_CHECKSUM_TAG, crc32(head)) + write_field(_HEADER_TAG, len(head)) + head


def read_header(data: bytes | memoryview) -> tuple[stage_pb2.Header, int]:
    """Return the verified header and the position after it. Raises TruncatedFrame or CorruptHeader."""
    if len(data) < _CHECKSUM.size:
        raise TruncatedFrame(f"{len(data)} bytes, fewer than the {_CHECKSUM.size} a frame starts with")
    tag, expected = _CHECKSUM.unpack_from(data)
    if tag != _CHECKSUM_TAG:
        raise CorruptHeader(f"the first byte is {tag:#04x}, not {_CHECKSUM_TAG:#04x}: this is not a frame")
    length, start = read_field(data, _CHECKSUM.size, _HEADER_TAG)
    if length > HEADER_BYTES:
        raise CorruptHeader(f"a header of {length} bytes; the limit is {HEADER_BYTES}")
    if start + length > len(data):
        raise TruncatedFrame(f"the header has {len(data) - start} of {length} bytes")
    head = bytes(data[start : start + length])
    if crc32(head) != expected:
        raise CorruptHeader(f"the header's checksum is {crc32(head):#010x}, expected {expected:#010x}")
    try:
        return stage_pb2.Header.FromString(head), start + length
    except DecodeError as error:
        raise CorruptHeader(f"the header is not a protobuf message: {error}") from None


def begin_frame(header: stage_pb2.Header) -> Frame:
    """Return the frame that a header describes, without its tensors. Raises CorruptHeader."""
    _check_header(header)
    frame = Frame(
        kind=_KINDS[header.kind],
        step=header.step,
        sequence=header.sequence,
        done_through=header.done_through,
        stage=header.stage,
    )
    if header.HasField("handshake"):
        frame.handshake = Handshake(**{name: getattr(header.handshake, name) for name in _HANDSHAKE})
    return frame


def read_specs(header: stage_pb2.Header, limit: int) -> list[Spec]:
    """Return the tensors that a header describes. Raises UnknownDtype or BadShape (also above `limit` bytes)."""
    return [_read_spec(spec, limit) for spec in header.tensors]


def _check_header(header: stage_pb2.Header) -> None:
    if header.kind not in _KINDS:
        raise CorruptHeader(f"frame kind {header.kind} is unknown here; do both ends run the same version?")
    if header.HasField("handshake") != (_KINDS[header.kind] is Kind.HANDSHAKE):
        raise CorruptHeader("handshake fields belong to HANDSHAKE frames, and to no others")
    names = [spec.name for spec in header.tensors]
    if len(set(names)) != len(names):
        raise CorruptHeader(f"tensor names {names} are not unique")


def _read_spec(spec: stage_pb2.TensorSpec, limit: int) -> Spec:
    dtype, shape = _TORCH_DTYPES.get(spec.dtype), tuple(spec.shape)
    if dtype is None:
        raise UnknownDtype(f"tensor {spec.name!r} has element type {spec.dtype}, unknown here")
    nbytes = math.prod(shape) * dtype.itemsize
    strides = math.prod(size or 1 for size in shape)  # an empty tensor's strides must fit into 64 bits, too
    if min(shape, default=0) < 0 or nbytes > limit or strides >= 2**60 or len(shape) > _MOST_DIMENSIONS:
        raise BadShape(f"tensor {spec.name!r} has shape {shape[:9]}; the limit is {limit} bytes")
    return Spec(spec.name, dtype, shape, nbytes)


def where(header: stage_pb2.Header) -> str:
    """Return step and sender of a frame, for error messages."""
    return f"step {header.step} from stage {header.stage}"


def write_field(tag: int, length: int) -> bytes:
    """Encode the start of a field of `length` bytes."""
    out = bytearray((tag,))
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


def read_field(data: bytes | memoryview, position: int, tag: int) -> tuple[int, int]:
    """Return the length of the field at `position`, and where its bytes start.

    Raises CorruptHeader or TruncatedFrame.
    """
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
