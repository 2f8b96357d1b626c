"""gRPC links: clients that are not stages, malformed frames, frozen peers. See also test_link_contract."""

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
import torch

from dni.errors import CorruptHeader, HandshakeRefused, PeerTimeout, TruncatedFrame, WorkerLost
from tests.support.transports import CLIENT, SERVER, address_of, child, context
from workers.comm.codec import decode, encode
from workers.comm.frame import Frame, Kind
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.grpc.transport import Grpc
from workers.comm.transports.process_link import LinkSettings

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def listener() -> Iterator[GrpcListener]:
    listener = GrpcListener(handshake=SERVER, settings=LinkSettings(timeout_s=5))
    yield listener
    listener.close()


def assert_accepts(listener: GrpcListener) -> None:
    """Check that a valid client can connect and exchange frames."""
    client = grpc_connect(listener.address, CLIENT, LinkSettings(timeout_s=10))
    server = listener.accept(10)
    client.send(Frame(Kind.STEP, 1, tensors={"value": torch.ones(1)}))
    assert server.receive(10).step == 1
    server.send(Frame(Kind.DONE, 1))
    assert client.receive(10).kind is Kind.DONE
    client.close()
    server.close()


def test_the_next_stage_ends_the_call_after_the_previous_one(listener: GrpcListener) -> None:
    client = grpc_connect(listener.address, CLIENT, LinkSettings(timeout_s=10))
    server = listener.accept(10)
    client.send(Frame(Kind.END, 7))
    assert server.receive(10).kind is Kind.END
    closing = threading.Thread(target=server.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    client.close()
    closing.join(5)
    assert not closing.is_alive()


class RawClient:
    """A client that sends the given bytes."""

    def __init__(self, address: str, *messages: bytes, half_close: bool = True) -> None:
        self.done = threading.Event()
        self.channel = grpc.insecure_channel(address)
        self.replies = self.channel.stream_stream("/dni.v1.Stage/Link", None, None)(self._send(messages, half_close))

    def _send(self, messages: tuple[bytes, ...], half_close: bool) -> Iterator[bytes]:
        yield from messages
        if not half_close:
            self.done.wait(30)

    def close(self) -> None:
        self.done.set()
        self.channel.close()


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ((b"garbage",), grpc.StatusCode.INVALID_ARGUMENT),
        ((b"",), grpc.StatusCode.INVALID_ARGUMENT),
        ((), grpc.StatusCode.INVALID_ARGUMENT),
        ((encode(Frame(Kind.STEP, 1)),), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_a_client_that_does_not_begin_with_a_handshake_is_refused(
    listener: GrpcListener, messages: tuple[bytes, ...], code: grpc.StatusCode
) -> None:
    client = RawClient(listener.address, *messages)
    with pytest.raises(grpc.RpcError) as error:
        next(iter(client.replies))
    assert error.value.code() is code
    client.close()
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        with pytest.raises(HandshakeRefused, match="began with a STEP frame"):
            listener.accept(10)
    assert_accepts(listener)


def test_a_silent_client_is_refused_after_the_timeout() -> None:
    listener = GrpcListener(handshake=SERVER, settings=LinkSettings(timeout_s=0.1))
    client = RawClient(listener.address, half_close=False)
    with pytest.raises(grpc.RpcError, match=r"within 0\.1 s"):
        next(iter(client.replies))
    client.close()
    assert_accepts(listener)
    listener.close()


def test_a_malformed_frame_is_an_error_in_its_place_and_the_link_continues(listener: GrpcListener) -> None:
    good = encode(Frame(Kind.STEP, 7, stage=0, tensors={"value": torch.ones(3)}))
    hello = encode(Frame(Kind.HANDSHAKE, handshake=CLIENT))
    client = RawClient(listener.address, hello, good, good[:-1], b"?" * 99, good, half_close=False)
    end = listener.accept(10)
    greeting = decode(next(iter(client.replies))).handshake
    assert greeting is not None
    assert replace(greeting, link=0) == SERVER
    assert end.receive(10).step == 7
    with pytest.raises(TruncatedFrame, match=r"from stage 0 at .*: step 7 from stage 0: 11 of 12 payload bytes"):
        end.receive(10)
    with pytest.raises(CorruptHeader, match="malformed frame from stage 0 at "):
        end.receive(10)
    assert end.receive(10).step == 7
    client.close()
    with pytest.raises(WorkerLost, match="stage 0"):
        end.receive(10)


def test_a_frozen_peer_is_lost() -> None:
    """gRPC detects it with keepalive pings."""
    with child("grpc", "listen") as process:
        end = Grpc(keepalive_s=2, reconnect_s=0).connect(address_of(process), context(CLIENT))
        process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(WorkerLost, match=r"stage 1 at .* is gone") as error:
            end.receive(30)
        assert not isinstance(error.value, PeerTimeout)
        assert time.monotonic() - start < 10
        end.close()
        process.kill()
