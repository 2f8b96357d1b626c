"""Bytes that are not a valid frame: each raises a named error."""

import contextlib
import struct
from zlib import crc32

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from dni.errors import BadShape, CorruptHeader, CorruptPayload, SizeMismatch, TruncatedFrame, UnknownDtype, WireError
from tests.support.comm.same_frame import same
from workers import stage_pb2
from workers.comm.codec import decode, encode
from workers.comm.frame import Frame, Kind

QUICK = settings(max_examples=60, deadline=None)
FULL = Frame(
    Kind.STEP,
    step=70_000,
    sequence=3,
    stage=1,
    tensors={"value": torch.arange(6.0).reshape(2, 3), "labels": torch.tensor([[1, -1]])},
)


def assemble(header: stage_pb2.Header, payload: bytes = b"") -> bytes:
    """Encode a frame with the protobuf library."""
    checksum = crc32(header.SerializeToString())
    return stage_pb2.Frame(header_crc32=checksum, header=header, payload=payload).SerializeToString()


def spec(shape: list[int], dtype: "stage_pb2.DType" = stage_pb2.DTYPE_FLOAT32) -> stage_pb2.Header:
    header = stage_pb2.Header(kind=stage_pb2.KIND_STEP, step=7, stage=2)
    header.tensors.add(name="value", dtype=dtype, shape=shape)
    return header


@pytest.mark.parametrize("checksum", [False, True])
def test_every_truncation_is_a_named_error(checksum: bool) -> None:
    data = encode(FULL, checksum=checksum)
    for length in range(len(data)):
        with pytest.raises(TruncatedFrame):
            decode(data[:length])


@pytest.mark.parametrize("frame", [FULL, Frame(Kind.DONE, 3, done_through=9)])
def test_every_changed_byte_before_the_payload_is_a_named_error(frame: Frame) -> None:
    data = encode(frame)
    payload = sum(t.nbytes for t in frame.tensors.values())
    for place in range(len(data) - payload):
        for value in set(range(256)) - {data[place]}:
            with pytest.raises(WireError):
                decode(data[:place] + bytes([value]) + data[place + 1 :])


@QUICK
@given(st.binary(max_size=200))
def test_garbage_is_a_named_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@QUICK
@given(st.binary(max_size=60))
def test_a_garbage_header_with_a_right_checksum_is_a_named_error_or_a_frame(head: bytes) -> None:
    data = b"\x0d" + struct.pack("<I", crc32(head)) + b"\x12" + bytes([len(head)]) + head
    with contextlib.suppress(WireError):
        assert isinstance(decode(data), Frame)


def test_only_a_checksum_detects_a_changed_payload() -> None:
    for checksum in (False, True):
        data = encode(FULL, checksum=checksum)
        changed = data[:-1] + bytes([data[-1] ^ 1])
        if checksum:
            with pytest.raises(CorruptPayload, match="step 70000 from stage 1"):
                decode(changed)
        else:
            assert not same(decode(changed), FULL)


@pytest.mark.parametrize("shape", [[-1], [2, -3], [-1, -1], [2**62], [2**31, 2**31, 2**31], [0, 2**62], [1] * 65])
def test_an_impossible_shape_is_refused(shape: list[int]) -> None:
    with pytest.raises(BadShape, match="step 7 from stage 2: tensor 'value'"):
        decode(assemble(spec(shape), b"\0" * 4))


@pytest.mark.parametrize("nbytes", [4, 11, 13])
def test_a_byte_count_that_does_not_match_the_shape_is_refused(nbytes: int) -> None:
    with pytest.raises(SizeMismatch, match=rf"step 7 from stage 2: a payload of {nbytes} bytes .* 12"):
        decode(assemble(spec([3]), b"\0" * nbytes))


def test_bytes_after_the_payload_are_refused() -> None:
    with pytest.raises(SizeMismatch, match="2 bytes follow"):
        decode(encode(FULL) + b"\0\0")


@pytest.mark.parametrize("code", [0, 11, 99])
def test_an_unknown_dtype_is_refused(code: int) -> None:
    with pytest.raises(UnknownDtype, match=f"step 7 from stage 2: tensor 'value' has element type {code}"):
        decode(assemble(spec([1], code), b"\0" * 4))  # type: ignore[arg-type]


def test_encode_refuses_an_unsupported_dtype() -> None:
    with pytest.raises(UnknownDtype, match=r"step 4 from stage 3: tensor 'value' is torch\.complex64; convert"):
        encode(Frame(Kind.STEP, 4, stage=3, tensors={"value": torch.ones(1, dtype=torch.complex64)}))


@pytest.mark.parametrize("kind", [0, 10])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(CorruptHeader, match=f"kind {kind}"):
        decode(assemble(stage_pb2.Header(kind=kind, step=1)))  # type: ignore[arg-type]


def test_a_handshake_without_its_fields_is_refused() -> None:
    with pytest.raises(CorruptHeader, match="HANDSHAKE"):
        decode(assemble(stage_pb2.Header(kind=stage_pb2.KIND_HANDSHAKE)))


def test_duplicate_tensor_names_are_refused() -> None:
    header = spec([0])
    header.tensors.add(name="value", dtype=stage_pb2.DTYPE_INT8, shape=[0])
    with pytest.raises(CorruptHeader, match="not unique"):
        decode(assemble(header))


def test_a_frame_larger_than_the_limit_is_refused() -> None:
    data = encode(FULL)
    assert same(decode(data, limit=len(data)), FULL)
    with pytest.raises(SizeMismatch, match=f"{len(data)} bytes; the limit is {len(data) - 1}"):
        decode(data, limit=len(data) - 1)


def test_a_header_larger_than_its_limit_is_refused_at_both_ends() -> None:
    many = {"x" * 70_000: torch.ones(1)}
    with pytest.raises(ValueError, match="limit is 65536"):
        encode(Frame(Kind.STEP, tensors=many))
    header = spec([0])
    header.tensors[0].name = "x" * 70_000
    with pytest.raises(CorruptHeader, match="limit is 65536"):
        decode(assemble(header))
