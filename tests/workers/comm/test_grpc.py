"""The gRPC link: who is let in, what a bad peer can do, and what is left behind."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
import torch

from dni.errors import (
    ConfigError,
    CorruptHeader,
    HandshakeRefused,
    PeerTimeout,
    SizeMismatch,
    TruncatedFrame,
    WorkerLost,
)
from workers.comm.codec import decode, encode
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect

SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
CLIENT = replace(SERVER, stage=0)
pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def listener() -> Iterator[GrpcListener]:
    listener = GrpcListener(handshake=SERVER, timeout_s=5)
    yield listener
    listener.close()


def assert_accepts(listener: GrpcListener) -> None:
    """A proper client gets in and is heard."""
    client = grpc_connect(listener.address, CLIENT, timeout_s=10)
    server = listener.accept(10)
    client.send(Frame(Kind.STEP, 1, tensors={"value": torch.ones(1)}))
    assert server.receive(10).step == 1
    server.send(Frame(Kind.DONE, 1))
    assert client.receive(10).kind is Kind.DONE
    client.close()
    server.close()


class RawClient:
    """A client that sends whatever bytes it is told to."""

    def __init__(self, address: str, *messages: bytes, half_close: bool = True) -> None:
        self.done = threading.Event()
        self.channel = grpc.insecure_channel(address)
        self.answers = self.channel.stream_stream("/dni.v1.Stage/Link", None, None)(self.say(messages, half_close))

    def say(self, messages: tuple[bytes, ...], half_close: bool) -> Iterator[bytes]:
        yield from messages
        if not half_close:
            self.done.wait(30)

    def close(self) -> None:
        self.done.set()
        self.channel.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("protocol_version", 9), ("run_id", "other"), ("stages", 3), ("fingerprint", "else"), ("next_step", 11)],
)
def test_a_mismatch_is_refused_on_both_sides_with_both_values(
    listener: GrpcListener, field: str, value: object
) -> None:
    said = rf"{field} is {value!r} at stage 0 and {getattr(SERVER, field)!r} at stage 1"
    with pytest.raises(HandshakeRefused, match=said):
        grpc_connect(listener.address, replace(CLIENT, **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(HandshakeRefused, match=said):
        listener.accept(10)
    assert_accepts(listener)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_only_the_stage_before_is_let_in(listener: GrpcListener, stage: int) -> None:
    said = f"stage {stage} connected to stage 1, which follows 0"
    with pytest.raises(HandshakeRefused, match=said):
        grpc_connect(listener.address, replace(CLIENT, stage=stage))
    with pytest.raises(HandshakeRefused, match=said):
        listener.accept(10)
    assert_accepts(listener)


def test_a_restarted_stage_is_let_in(listener: GrpcListener) -> None:
    client = grpc_connect(listener.address, replace(CLIENT, incarnation=3))
    listener.accept(10)
    client.close()
    assert_accepts(listener)


def test_a_stranger_that_does_not_speak_grpc_changes_nothing(listener: GrpcListener) -> None:
    host, port = listener.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert_accepts(listener)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ((b"garbage",), grpc.StatusCode.INVALID_ARGUMENT),
        ((b"",), grpc.StatusCode.INVALID_ARGUMENT),
        ((), grpc.StatusCode.INVALID_ARGUMENT),
        ((encode(Frame(Kind.STEP, 1)),), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_a_client_that_does_not_begin_with_a_handshake_is_turned_away(
    listener: GrpcListener, messages: tuple[bytes, ...], code: grpc.StatusCode
) -> None:
    client = RawClient(listener.address, *messages)
    with pytest.raises(grpc.RpcError) as error:
        next(iter(client.answers))
    assert error.value.code() is code
    client.close()
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        with pytest.raises(HandshakeRefused, match="began with a STEP frame"):
            listener.accept(10)
    assert_accepts(listener)


def test_a_client_that_says_nothing_is_turned_away_in_time() -> None:
    listener = GrpcListener(handshake=SERVER, timeout_s=0.1)
    client = RawClient(listener.address, half_close=False)
    with pytest.raises(grpc.RpcError, match=r"within 0\.1 s"):
        next(iter(client.answers))
    client.close()
    assert_accepts(listener)
    listener.close()


def test_a_malformed_frame_is_an_error_in_its_place_and_the_link_lives_on(listener: GrpcListener) -> None:
    good = encode(Frame(Kind.STEP, 7, stage=0, tensors={"value": torch.ones(3)}))
    hello = encode(Frame(Kind.HANDSHAKE, handshake=CLIENT))
    client = RawClient(listener.address, hello, good, good[:-1], b"?" * 99, good, half_close=False)
    end = listener.accept(10)
    assert decode(next(iter(client.answers))).handshake == SERVER
    assert end.receive(10).step == 7
    with pytest.raises(TruncatedFrame, match=r"from stage 0 at .*: step 7 from stage 0: 11 of 12 payload bytes"):
        end.receive(10)
    with pytest.raises(CorruptHeader, match="malformed frame from stage 0 at "):
        end.receive(10)
    assert end.receive(10).step == 7
    client.close()
    with pytest.raises(WorkerLost, match="stage 0"):
        end.receive(10)


def test_a_frame_larger_than_the_link_carries_is_refused_at_the_sender(listener: GrpcListener) -> None:
    client = grpc_connect(listener.address, CLIENT, max_frame=1000)
    with pytest.raises(SizeMismatch, match=r"step 5: STEP to stage 1 at .* the link carries 1000"):
        client.send(Frame(Kind.STEP, 5, tensors={"value": torch.ones(1000)}))
    client.send(Frame(Kind.STEP, 6))
    assert listener.accept(10).receive(10).step == 6
    client.close()


def test_checksums_are_sent_when_asked_for(listener: GrpcListener) -> None:
    client = grpc_connect(listener.address, CLIENT, checksum=True)
    client.send(Frame(Kind.STEP, 1, tensors={"value": torch.arange(9.0)}))
    assert listener.accept(10).receive(10).tensors["value"].tolist() == list(range(9))
    client.close()


def test_a_client_may_come_before_the_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    ends: list[ChannelEnd] = []
    thread = threading.Thread(target=lambda: ends.append(grpc_connect(address, CLIENT, timeout_s=20)))
    thread.start()
    listener = GrpcListener(address, handshake=SERVER)
    listener.accept(20)
    thread.join()
    ends[0].close()
    listener.close()


def test_nobody_there_is_a_timeout_with_address_and_stage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(PeerTimeout, match=rf"stage 0: no answer from stage 1 at {address} within 0\.2 s"):
        grpc_connect(address, CLIENT, timeout_s=0.2)


def test_nobody_comes_is_a_timeout_with_address_and_stage(listener: GrpcListener) -> None:
    with pytest.raises(PeerTimeout, match=rf"stage 1: stage 0 did not connect to {listener.address} within 0\.05 s"):
        listener.accept(0.05)


def test_an_end_without_its_peer_says_which_stage_is_gone(listener: GrpcListener) -> None:
    client, server = grpc_connect(listener.address, CLIENT), listener.accept(10)
    listener.close()
    with pytest.raises(WorkerLost, match=f"stage 1 at {listener.address}"):
        client.receive(10)
    client.close()
    server.close()
    with pytest.raises(WorkerLost, match="is closed"):
        listener.accept(10)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "example.org:80"])
def test_plaintext_beyond_loopback_is_refused(bind: str) -> None:
    with pytest.raises(ConfigError, match="insecure=true"):
        GrpcListener(bind, handshake=SERVER)
    with pytest.raises(ConfigError, match="insecure=true"):
        grpc_connect(bind, CLIENT)


def test_plaintext_beyond_loopback_can_be_allowed() -> None:
    GrpcListener("0.0.0.0:0", handshake=SERVER, insecure=True).close()


@pytest.mark.parametrize("bind", ["localhost", "127.0.0.1:", "127.0.0.1:http"])
def test_an_address_without_a_port_is_refused(bind: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        GrpcListener(bind, handshake=SERVER)


def test_a_port_in_use_is_refused(listener: GrpcListener) -> None:
    with pytest.raises(ConfigError, match=f"stage 1: cannot listen at {listener.address}"):
        GrpcListener(listener.address, handshake=SERVER)


CHILD = """
import sys
from dataclasses import replace
from workers.comm.frame import PROTOCOL_VERSION, Handshake
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
mine = Handshake(PROTOCOL_VERSION, "run", 2, 4, "fingerprint", 0, 10)
if sys.argv[1] == "alone":  # both ends, neither closed
    listener = GrpcListener(handshake=mine)
    client = grpc_connect(listener.address, replace(mine, stage=1))
    server = listener.accept(10)
    sys.exit(7)
listener = GrpcListener(handshake=mine)
print(listener.address, flush=True)
listener.accept(30)
sys.stdin.read()
"""


def child(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_the_interpreter_ends_though_nobody_closed_anything() -> None:
    with child("alone") as process:
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (7, "")


@pytest.mark.parametrize(("how", "most_s"), [(signal.SIGSTOP, 10), (signal.SIGKILL, 3)])
def test_a_frozen_or_killed_peer_is_noticed(how: signal.Signals, most_s: float) -> None:
    with child("listen") as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0]
        end = grpc_connect(process.stdout.readline().strip(), replace(SERVER, stage=1))
        process.send_signal(how)
        start = time.monotonic()
        with pytest.raises(WorkerLost, match=r"stage 2 at .* is gone") as error:
            end.receive(30)
        assert not isinstance(error.value, PeerTimeout)
        assert time.monotonic() - start < most_s
        end.close()
        process.kill()
