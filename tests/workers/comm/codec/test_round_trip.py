"""Encode and decode: frames arrive unchanged."""

import struct
from zlib import crc32

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.support.comm.same_frame import bits, same
from workers import stage_pb2
from workers.comm.codec import decode, encode
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8,
    torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
]  # fmt: skip
QUICK = settings(max_examples=60, deadline=None)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw tensors of any dtype with 0 to 3 dimensions of size 0 to 4, contiguous or not, with random bits."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    high = 2 if dtype is torch.bool else 256
    memory = torch.randint(high, (*[2 * n for n in shape], dtype.itemsize), generator=generator).to(torch.uint8)
    tensor = memory.view(dtype).squeeze(-1)
    for dim in range(len(shape)):  # every second element, so it is strided
        tensor = tensor[(slice(None),) * dim + (slice(None, None, 2),)]
    return tensor.transpose(0, -1) if shape and draw(st.booleans()) else tensor


@QUICK
@given(
    st.dictionaries(st.text(max_size=8), tensors(), max_size=4),
    st.sampled_from(list(Kind)[1:]),
    st.tuples(*[st.integers(0, 2**63)] * 3),
    st.booleans(),
)
def test_decode_inverts_encode(
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


def test_the_encoding_of_a_frame_is_fixed() -> None:
    frame = Frame(Kind.DONE, step=3, sequence=2, done_through=1, stage=1, tensors={"v": torch.tensor([258]).short()})
    header = bytes([8, 7, 16, 3, 24, 2, 32, 1, 40, 1, 50, 8, 10, 1, ord("v"), 16, 6, 26, 1, 1])
    start = b"\x0d" + struct.pack("<I", crc32(header)) + b"\x12" + bytes([len(header)]) + header
    assert encode(frame) == start + b"\x7a\x02" + b"\x02\x01"


@QUICK
@given(st.dictionaries(st.sampled_from(["a", "b"]), tensors()), st.booleans())
def test_the_protobuf_library_reads_and_writes_the_same_bytes(named: dict[str, torch.Tensor], check: bool) -> None:
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


def test_encode_does_not_change_the_tensor() -> None:
    value = torch.ones(3, requires_grad=True)
    data = encode(Frame(Kind.STEP, tensors={"value": value * 2}))
    assert not decode(data).tensors["value"].requires_grad
    assert value.tolist() == [1, 1, 1]
