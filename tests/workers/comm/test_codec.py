"""Frames as bytes: what is sent is what arrives, or a named error."""

import contextlib
import struct
from zlib import crc32

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

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
from workers.comm.codec import decode, encode
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8,
    torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
]  # fmt: skip
QUICK = settings(max_examples=60, deadline=None)
FULL = Frame(
    Kind.STEP,
    step=70_000,
    sequence=3,
    stage=1,
    tensors={"value": torch.arange(6.0).reshape(2, 3), "labels": torch.tensor([[1, -1]])},
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any element type, 0 to 3 dimensions of 0 to 4, contiguous or not; every bit pattern but odd booleans."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    most = 2 if dtype is torch.bool else 256
    memory = torch.randint(most, (*[2 * n for n in shape], dtype.itemsize), generator=generator).to(torch.uint8)
    tensor = memory.view(dtype).squeeze(-1)
    for dim in range(len(shape)):  # every second one: strided
        tensor = tensor[(slice(None),) * dim + (slice(None, None, 2),)]
    return tensor.transpose(0, -1) if shape and draw(st.booleans()) else tensor


def bits(tensor: torch.Tensor) -> list[int]:
    dense = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    return [] if not len(dense) else dense.view(torch.uint8).tolist()


def same(a: Frame, b: Frame) -> bool:
    """Bit for bit, so that a NaN equals itself."""
    plain = [(f.kind, f.step, f.sequence, f.done_through, f.stage, f.handshake) for f in (a, b)]
    described = [[(n, t.dtype, t.shape, bits(t)) for n, t in f.tensors.items()] for f in (a, b)]
    return plain[0] == plain[1] and described[0] == described[1]


def assemble(header: stage_pb2.Header, payload: bytes = b"") -> bytes:
    """What an ordinary protobuf client sends."""
    checksum = crc32(header.SerializeToString())
    return stage_pb2.Frame(header_crc32=checksum, header=header, payload=payload).SerializeToString()


def spec(shape: list[int], dtype: "stage_pb2.DType" = stage_pb2.DTYPE_FLOAT32) -> stage_pb2.Header:
    header = stage_pb2.Header(kind=stage_pb2.KIND_STEP, step=7, stage=2)
    header.tensors.add(name="value", dtype=dtype, shape=shape)
    return header


@QUICK
@given(
    st.dictionaries(st.text(max_size=8), tensors(), max_size=4),
    st.sampled_from(list(Kind)[1:]),
    st.tuples(*[st.integers(0, 2**63)] * 3),
    st.booleans(),
)
def test_what_arrives_is_what_was_sent(
    named: dict[str, torch.Tensor], kind: Kind, numbers: tuple[int, int, int], checksum: bool
) -> None:
    frame = Frame(kind, *numbers, stage=5, tensors=named)
    assert same(decode(encode(frame, checksum=checksum)), frame)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_keeps_its_values(dtype: torch.dtype) -> None:
    value = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    arrived = decode(encode(Frame(Kind.STEP, tensors={"value": value}))).tensors["value"]
    assert arrived.dtype is dtype
    assert arrived.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1)])
def test_scalars_and_empty_tensors_keep_their_shape(shape: tuple[int, ...]) -> None:
    arrived = decode(encode(Frame(Kind.STEP, tensors={"value": torch.ones(shape)})))
    assert arrived.tensors["value"].shape == shape


def test_the_bytes_of_a_frame_are_these() -> None:
    frame = Frame(Kind.DONE, step=3, sequence=2, done_through=1, stage=1, tensors={"v": torch.tensor([258]).short()})
    header = bytes([8, 7, 16, 3, 24, 2, 32, 1, 40, 1, 50, 8, 10, 1, ord("v"), 16, 6, 26, 1, 1])
    start = b"\x0d" + struct.pack("<I", crc32(header)) + b"\x12" + bytes([len(header)]) + header
    assert encode(frame) == start + b"\x7a\x02" + b"\x02\x01"


@QUICK
@given(st.dictionaries(st.sampled_from(["a", "b"]), tensors()), st.booleans())
def test_an_ordinary_protobuf_client_reads_and_writes_the_same(named: dict[str, torch.Tensor], check: bool) -> None:
    data = encode(Frame(Kind.STEP, 3, 2, tensors=named), checksum=check)
    parsed = stage_pb2.Frame.FromString(data)
    assert parsed.header_crc32 == crc32(parsed.header.SerializeToString())
    assert [s.name for s in parsed.header.tensors] == list(named)
    assert parsed.payload == b"".join(bytes(bits(t)) for t in named.values())
    assert parsed.SerializeToString() == data
    assert same(decode(parsed.SerializeToString()), decode(data))


def test_a_handshake_arrives_with_its_fields() -> None:
    mine = Handshake(PROTOCOL_VERSION, "run", 1, 4, "ab12", 2, 1000)
    assert decode(encode(Frame(Kind.HANDSHAKE, handshake=mine))).handshake == mine


def test_received_tensors_are_writable_aligned_and_independent() -> None:
    data = encode(Frame(Kind.STEP, tensors={"a": torch.ones(3).bool(), "b": torch.ones(5), "c": torch.ones(5)}))
    before = bytes(bytearray(data))
    first, second = decode(data), decode(data)
    first.tensors["b"].zero_()
    assert data == before
    assert second.tensors["b"].tolist() == [1] * 5
    assert first.tensors["c"].tolist() == [1] * 5
    assert [t.data_ptr() % 64 for t in first.tensors.values()] == [0, 0, 0]


def test_a_sent_tensor_is_left_alone() -> None:
    value = torch.ones(3, requires_grad=True)
    data = encode(Frame(Kind.STEP, tensors={"value": value * 2}))
    assert not decode(data).tensors["value"].requires_grad
    assert value.tolist() == [1, 1, 1]


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


def test_a_changed_payload_is_found_with_a_checksum_only() -> None:
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


def test_an_unsendable_dtype_is_refused_by_name() -> None:
    with pytest.raises(UnknownDtype, match=r"step 4 from stage 3: tensor 'value' is torch\.complex64; convert"):
        encode(Frame(Kind.STEP, 4, stage=3, tensors={"value": torch.ones(1, dtype=torch.complex64)}))


@pytest.mark.parametrize("kind", [0, 9])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(CorruptHeader, match=f"kind {kind}"):
        decode(assemble(stage_pb2.Header(kind=kind, step=1)))  # type: ignore[arg-type]


def test_a_handshake_without_its_fields_is_refused() -> None:
    with pytest.raises(CorruptHeader, match="HANDSHAKE"):
        decode(assemble(stage_pb2.Header(kind=stage_pb2.KIND_HANDSHAKE)))


def test_two_tensors_of_one_name_are_refused() -> None:
    header = spec([0])
    header.tensors.add(name="value", dtype=stage_pb2.DTYPE_INT8, shape=[0])
    with pytest.raises(CorruptHeader, match="not unique"):
        decode(assemble(header))


def test_a_frame_larger_than_the_limit_is_refused_before_anything_is_read() -> None:
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
