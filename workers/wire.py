"""Frames as bytes: valid protobuf, written and read by offset so that big tensors are copied once each way.

    0d <crc32 of header, 4 bytes>  12 <length> <header>  [7a <length> <payload>]

is message `Frame` of `proto/dni/v1/stage.proto`; the payload holds the tensors' bytes in the order of
`header.tensors`. Between processes of one machine it may lie in memory that both share (`workers.ring`) instead.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, fields
from typing import Any
from zlib import crc32

from google.protobuf.message import DecodeError

from dni.errors import (
    CorruptHeader,
    CorruptPayload,
    SizeMismatch,
    TruncatedFrame,
    UnknownDtype,
    WireError,
)
from workers import stage_pb2
from workers.frame import Frame, Handshake, Kind
from workers.payload import TORCH_DTYPES, describe, memory, read_spec, restore
from workers.ring import Offer, Rings

#: The most bytes a frame may have unless told otherwise.
FRAME_BYTES = 256 * 2**20
#: The most bytes a header may have: bounds what a header can make its reader allocate.
HEADER_BYTES = 64 * 2**10

_CHECKSUM = struct.Struct("<BI")
_CHECKSUM_TAG, _HEADER_TAG, _PAYLOAD_TAG = 0x0D, 0x12, 0x7A

_KINDS: dict[int, Kind] = {kind.value: kind for kind in Kind}
_HANDSHAKE = [field.name for field in fields(Handshake)]


def _check_tables() -> None:
    """At import: every value of the protobuf enums and every field of the handshake is handled here."""
    same = {
        "DType": set(stage_pb2.DType.values()) - {0} == set(TORCH_DTYPES),
        "Kind": {name: value for name, value in stage_pb2.Kind.items() if value}
        == {f"KIND_{kind.name}": kind.value for kind in Kind},
        "Ring": list(stage_pb2.Ring.DESCRIPTOR.fields_by_name) == list(Offer._fields),
        "Handshake": list(stage_pb2.Handshake.DESCRIPTOR.fields_by_name) == _HANDSHAKE,
    }
    if not all(same.values()):
        wrong = [name for name, equal in same.items() if not equal]
        raise ImportError(f"workers.wire and workers.stage_pb2 disagree about {wrong}: regenerate stage_pb2")


_check_tables()


def encode(frame: Frame, *, checksum: bool = False, rings: Rings | None = None) -> bytes:
    """The frame's bytes; tensors of any shape, layout and device. `checksum` covers the payload too.

    A payload for which there is room in `rings` is left there.

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
    try:
        for name, tensor in frame.tensors.items():
            describe(header, name, tensor)
    except UnknownDtype as error:
        raise UnknownDtype(f"{_where(header)}: {error}") from None
    chunks = [memory(tensor) for tensor in frame.tensors.values()]
    nbytes = sum(chunk.nbytes for chunk in chunks)
    if checksum:
        value = 0
        for chunk in chunks:
            value = crc32(chunk, value)
        header.payload_crc32 = value
    if rings is not None and _place(header, chunks, nbytes, rings):
        chunks, nbytes = [], 0
    return _join(header, chunks, nbytes)


def _place(header: stage_pb2.Header, chunks: list[Any], nbytes: int, rings: Rings) -> bool:
    """Leave the payload in the ring if there is room, and tell the peer what it must know; whether it was left."""
    if header.kind == stage_pb2.KIND_HANDSHAKE and (offer := rings.offer()) is not None:
        header.ring.CopyFrom(stage_pb2.Ring(**offer._asdict()))
    if rings.opened:
        header.ring_freed = rings.read_through
    position = rings.place(chunks, nbytes)
    if position is not None:
        header.ring_position = position
    return position is not None


def _join(header: stage_pb2.Header, chunks: list[Any], nbytes: int) -> bytes:
    head = header.SerializeToString()
    if len(head) > HEADER_BYTES:
        raise ValueError(f"{_where(header)}: a header of {len(head)} bytes; the limit is {HEADER_BYTES}")
    start = _CHECKSUM.pack(_CHECKSUM_TAG, crc32(head)) + _field(_HEADER_TAG, len(head)) + head
    if nbytes:
        start += _field(_PAYLOAD_TAG, nbytes)
    return b"".join((start, *chunks))


def decode(data: bytes, *, limit: int = FRAME_BYTES, rings: Rings | None = None) -> Frame:
    """The frame that `data` holds; its tensors own their memory and may be written to.

    Raises the WireError that says what is wrong: TruncatedFrame, CorruptHeader, CorruptPayload, UnknownDtype,
    BadShape or SizeMismatch (also for more than `limit` bytes).
    """
    if len(data) > limit:
        raise SizeMismatch(f"a frame of {len(data)} bytes; the limit is {limit}")
    header, position = _read_header(data)
    try:
        return _read_frame(header, data, position, limit, rings)
    except WireError as error:
        raise type(error)(f"{_where(header)}: {error}") from None


def _read_frame(header: stage_pb2.Header, data: bytes, position: int, limit: int, rings: Rings | None) -> Frame:
    _check_header(header)
    specs = [read_spec(spec, limit) for spec in header.tensors]
    names = [spec[0] for spec in specs]
    if len(set(names)) != len(names):
        raise CorruptHeader(f"tensor names {names} are not unique")
    expected, in_ring = sum(spec[3] for spec in specs), header.HasField("ring_position")
    if rings is not None:
        rings.heed(header)
    if in_ring:
        payload = _in_ring(header, rings, expected, data, position)
    else:
        payload = memoryview(data)[_find_payload(data, position) :]
    _check_payload(header, payload, expected, not in_ring and position == len(data))
    frame = Frame(
        kind=_KINDS[header.kind],
        step=header.step,
        sequence=header.sequence,
        done_through=header.done_through,
        stage=header.stage,
    )
    if header.HasField("handshake"):
        frame.handshake = Handshake(**{name: getattr(header.handshake, name) for name in _HANDSHAKE})
    offset = 0
    for name, dtype, shape, nbytes in specs:
        frame.tensors[name] = restore(payload, offset, dtype, shape, nbytes)
        offset += nbytes
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


def _check_payload(header: stage_pb2.Header, payload: Any, expected: int, absent: bool) -> None:
    if absent and expected:
        raise TruncatedFrame(f"no payload where the shapes say {expected} bytes")
    if len(payload) != expected:
        raise SizeMismatch(f"a payload of {len(payload)} bytes where the shapes say {expected}")
    if header.HasField("payload_crc32") and crc32(payload) != header.payload_crc32:
        announced = header.payload_crc32
        raise CorruptPayload(f"the payload's checksum is {crc32(payload):#010x}, announced was {announced:#010x}")


def _where(header: stage_pb2.Header) -> str:
    return f"step {header.step} from stage {header.stage}"


def _field(tag: int, length: int) -> bytes:
    if length <= 0x7F:
        return bytes((tag, length))
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
    if position + 1 < len(data) and data[position + 1] < 0x80:
        return data[position + 1], position + 2
    length = 0
    for count, byte in enumerate(data[position + 1 : position + 11]):
        length |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return length, position + 2 + count
    if position + 11 <= len(data):
        raise CorruptHeader(f"the length at byte {position + 1} has more than 10 bytes")
    raise TruncatedFrame(f"{len(data)} bytes, which end inside a field's length")
