"""Payloads in shared memory: their positions, misbehaving peers, and cleanup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch

from dni.errors import CorruptHeader, CorruptPayload, SizeMismatch
from workers import stage_pb2
from workers.comm.codec import decode, encode
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.shared_memory import MIN_PAYLOAD_BYTES, SUPPORTED, Offer, Rings
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.process_link import LinkSettings

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="needs anonymous shared memory")

K = 2**10
MINE = Handshake(PROTOCOL_VERSION, "run", 1, 2, "fingerprint", 0, 0)


@pytest.fixture
def pair() -> Iterator[tuple[Rings, Rings]]:
    """Yield a writer with a ring of 128 KiB, and the reader that has opened it."""
    writer, reader = Rings(128 * K, largest=2**30), Rings(128 * K, largest=2**30)
    decode(encode(Frame(Kind.HANDSHAKE, handshake=MINE), rings=writer), rings=reader)
    decode(encode(Frame(Kind.DONE), rings=reader), rings=writer)
    yield writer, reader
    writer.close()
    reader.close()


def step(number: int, nbytes: int) -> Frame:
    return Frame(Kind.STEP, number, tensors={"value": torch.full((nbytes,), number, dtype=torch.uint8)})


def header_of(data: bytes) -> stage_pb2.Header:
    return stage_pb2.Frame.FromString(data).header


def position(data: bytes) -> int | None:
    header = header_of(data)
    return header.ring_position if header.HasField("ring_position") else None


def changed(data: bytes, payload: bytes = b"", **fields: int) -> bytes:
    """Change fields of a frame's header and fix its checksum."""
    header = header_of(data)
    for name, value in fields.items():
        setattr(header, name, value)
    return stage_pb2.Frame(
        header_crc32=crc32(header.SerializeToString()), header=header, payload=payload
    ).SerializeToString()


def test_a_big_payload_goes_through_the_ring_and_the_reader_owns_its_copy(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    data = encode(step(7, 40 * K), rings=writer)
    assert len(data) < 100
    received = decode(data, rings=reader).tensors["value"]
    encode(step(8, 40 * K), rings=writer)  # the writer does not know yet that the first was read
    decode(encode(Frame(Kind.DONE), rings=reader), rings=writer)
    encode(step(9, 40 * K), rings=writer)  # reuses the place of the first
    received += 1
    assert received.tolist() == [8] * 40 * K


def test_read_places_are_reused_and_payloads_that_do_not_fit_travel_in_their_frames(
    pair: tuple[Rings, Rings],
) -> None:
    writer, reader = pair
    sent = [encode(step(n, 40 * K), rings=writer) for n in range(4)]
    assert [position(data) for data in sent] == [0, 40 * K, 80 * K, None]  # 128 KiB hold three
    for n, data in enumerate(sent[:2]):
        assert decode(data, rings=reader).tensors["value"].unique().tolist() == [n]
    assert position(encode(step(4, 40 * K), rings=writer)) is None  # read, but not reported as read
    decode(encode(Frame(Kind.DONE), rings=reader), rings=writer)
    more = [encode(step(n, 40 * K), rings=writer) for n in (5, 6, 7)]
    assert [position(data) for data in more] == [128 * K, 168 * K, None]  # at the start of the ring again
    received = [decode(data, rings=reader).tensors["value"].unique().tolist() for data in (sent[2], sent[3], *more)]
    assert received == [[2], [3], [5], [6], [7]]


def test_an_empty_ring_holds_a_payload_of_its_own_size_but_no_bigger(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    for n, nbytes in enumerate((40 * K, 128 * K, 128 * K + 1, MIN_PAYLOAD_BYTES, MIN_PAYLOAD_BYTES - 1)):
        data = encode(step(n, nbytes), rings=writer)
        assert (position(data) is not None) == (MIN_PAYLOAD_BYTES <= nbytes <= 128 * K)
        assert decode(data, rings=reader).tensors["value"].unique().tolist() == [n]
        decode(encode(Frame(Kind.DONE), rings=reader), rings=writer)


def test_the_ring_is_not_used_until_the_peer_has_opened_it() -> None:
    writer = Rings(128 * K, largest=2**30)
    encode(Frame(Kind.HANDSHAKE, handshake=MINE), rings=writer)
    assert position(encode(step(1, 40 * K), rings=writer)) is None
    other = Rings(128 * K, largest=2**30)
    other.open(Offer(os.getpid(), 2**30, 1, 128 * K))  # no such file
    assert not other.opened
    writer.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ring_position": 100 * K}, "outside the ring, which has 131072 bytes"),
        ({"ring_position": 256 * K}, "outside the ring, which has 131072 bytes and was read through byte 0"),
        ({"ring_position": 2**63}, "outside the ring"),
        ({"ring_freed": 80 * K}, "read through byte 81920; 0 were written"),
    ],
)
def test_a_position_outside_the_ring_is_an_error_and_the_next_frame_is_read(
    pair: tuple[Rings, Rings], fields: dict[str, int], message: str
) -> None:
    writer, reader = pair
    data = encode(step(7, 40 * K), rings=writer)
    with pytest.raises(CorruptHeader, match=f"step 7 from stage 0: .*{message}"):
        decode(changed(data, **fields), rings=reader)
    assert decode(data, rings=reader).tensors["value"].unique().tolist() == [7]


def test_a_position_that_was_read_is_not_read_again(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    data = encode(step(7, 40 * K), rings=writer)
    decode(data, rings=reader)
    with pytest.raises(CorruptHeader, match="was read through byte 40960"):
        decode(data, rings=reader)


def test_a_payload_in_two_places_or_in_a_missing_ring_is_an_error(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    data = encode(step(7, 40 * K), rings=writer)
    with pytest.raises(SizeMismatch, match="bytes follow the header"):
        decode(changed(data, payload=bytes(40 * K)), rings=reader)
    for rings in (None, Rings(128 * K, largest=2**30)):
        with pytest.raises(CorruptHeader, match=r"step 7 from stage 0: .*ring"):
            decode(data, rings=rings)


def test_a_checksum_covers_a_payload_in_the_ring(pair: tuple[Rings, Rings]) -> None:
    writer, reader = pair
    data = encode(step(7, 40 * K), checksum=True, rings=writer)
    valid = encode(step(8, 40 * K), checksum=True, rings=writer)
    wrong = changed(data, payload_crc32=header_of(data).payload_crc32 ^ 1)
    with pytest.raises(CorruptPayload, match="step 7 from stage 0"):
        decode(wrong, rings=reader)
    assert decode(valid, rings=reader).tensors["value"].unique().tolist() == [8]


def test_a_ring_with_another_inode_or_size_is_not_opened(pair: tuple[Rings, Rings]) -> None:
    writer, _ = pair
    offer = writer.offer()
    assert offer is not None
    for wrong in (offer._replace(inode=offer.inode + 1), offer._replace(nbytes=offer.nbytes - 4096)):
        reader = Rings(0, largest=0)
        reader.open(wrong)
        assert not reader.opened


def test_a_ring_cannot_be_truncated_and_is_private(pair: tuple[Rings, Rings]) -> None:
    offer = pair[0].offer()
    assert offer is not None
    with pytest.raises(PermissionError):
        os.ftruncate(offer.descriptor, 4096)
    assert os.fstat(offer.descriptor).st_mode & 0o777 == 0o600


CHILD = """
import sys, torch
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.transports.grpc.link import grpc_connect
end = grpc_connect(sys.argv[1], Handshake(PROTOCOL_VERSION, "run", 0, 2, "fingerprint", 0, 0))
for n in range(4):
    end.send(Frame(Kind.STEP, n, tensors={"value": torch.full((100_000,), float(n))}))
    end.receive(20)
sys.stdin.read()
"""


def test_two_processes_share_a_ring_that_is_gone_after_one_is_killed(tmp_path: Path) -> None:
    rings_before = rings_open()
    listener = GrpcListener(f"unix:{tmp_path}/stage-1", handshake=MINE)
    command = [sys.executable, "-c", CHILD, listener.address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as child:
        end = listener.accept(30)
        for n in range(4):
            assert np.unique(end.receive(20).tensors["value"]).tolist() == [n]
            end.send(Frame(Kind.GRADIENT, n, tensors={"gradient": torch.ones(100_000)}))
        assert rings_open() == rings_before + 2  # its own and the child's
        child.send_signal(signal.SIGKILL)
    end.close()
    listener.close()
    assert rings_open() == rings_before


def rings_open() -> int:
    """Return the number of rings that this process has mapped."""
    return sum("/memfd:dni-ring" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_an_end_without_a_ring_works_with_one_that_has_a_ring(tmp_path: Path) -> None:
    listener = GrpcListener(f"unix:{tmp_path}/stage-1", handshake=MINE, settings=LinkSettings(ring=0))
    client = grpc_connect(listener.address, Handshake(PROTOCOL_VERSION, "run", 0, 2, "fingerprint", 0, 0))
    server = listener.accept(10)
    for sender, receiver in ((client, server), (server, client), (client, server)):
        sender.send(step(3, 100 * K))
        assert receiver.receive(10).tensors["value"].unique().tolist() == [3]
    client.close()
    listener.close()
