"""The contract of transports between processes: handshakes, misbehaving peers, and cleanup."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from dni.errors import ConfigError, HandshakeRefused, PeerTimeout, SizeMismatch, WorkerLost
from tests.support.comm.listening import listening
from tests.support.transports import BETWEEN_PROCESSES, CLIENT, SERVER, address_of, child, context, free_address, linked
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd, Listener
from workers.comm.transports.grpc.transport import Grpc
from workers.comm.transports.process_link import ProcessTransport

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

HERE = "127.0.0.1:0"


@pytest.fixture(params=BETWEEN_PROCESSES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def transport(name: str) -> ProcessTransport:
    return BETWEEN_PROCESSES[name](timeout_s=10)


@pytest.fixture
def listener(transport: ProcessTransport) -> Iterator[Listener]:
    with closing(transport.listen(HERE, context(SERVER))) as listener:
        yield listener


def assert_accepts(transport: ProcessTransport, listener: Listener) -> None:
    """Check that a valid client can connect and exchange frames."""
    client = transport.connect(listener.address, context(CLIENT))
    server = listener.accept(10)
    client.send(Frame(Kind.STEP, 1, tensors={"value": torch.ones(1)}))
    assert server.receive(10).step == 1
    server.send(Frame(Kind.DONE, 1))
    assert client.receive(10).kind is Kind.DONE
    client.close()
    server.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("protocol_version", 9), ("run_id", "other"), ("stages", 3), ("fingerprint", "else"), ("next_step", 11)],
)
def test_a_mismatch_is_refused_on_both_sides_with_both_values(
    transport: ProcessTransport, listener: Listener, field: str, value: object
) -> None:
    message = rf"{field} is {value!r} at stage 0 and {getattr(SERVER, field)!r} at stage 1"
    with pytest.raises(HandshakeRefused, match=message):
        transport.connect(listener.address, context(replace(CLIENT, **{field: value})))  # type: ignore[arg-type]
    with pytest.raises(HandshakeRefused, match=message):
        listener.accept(10)
    assert_accepts(transport, listener)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_only_the_previous_stage_may_connect(transport: ProcessTransport, listener: Listener, stage: int) -> None:
    message = f"stage {stage} connected to stage 1, which follows 0"
    with pytest.raises(HandshakeRefused, match=message):
        transport.connect(listener.address, context(replace(CLIENT, stage=stage)))
    with pytest.raises(HandshakeRefused, match=message):
        listener.accept(10)
    assert_accepts(transport, listener)


def test_a_restarted_stage_may_connect(transport: ProcessTransport, listener: Listener) -> None:
    client = transport.connect(listener.address, context(replace(CLIENT, incarnation=3)))
    server = listener.accept(10)
    client.send(Frame(Kind.STEP, 7))
    assert server.receive(10).step == 7
    client.close()
    assert_accepts(transport, listener)


def test_a_client_of_another_protocol_has_no_effect(transport: ProcessTransport, listener: Listener) -> None:
    host, port = listener.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert_accepts(transport, listener)


def test_a_frame_larger_than_the_link_carries_is_refused_at_the_sender(
    transport: ProcessTransport, listener: Listener
) -> None:
    client = replace(transport, max_frame_mb=1).connect(listener.address, context(CLIENT))
    with pytest.raises(SizeMismatch, match=r"step 5: STEP to stage 1 at .* the link carries 1048576"):
        client.send(Frame(Kind.STEP, 5, tensors={"value": torch.ones(300_000)}))
    client.send(Frame(Kind.STEP, 6))
    assert listener.accept(10).receive(10).step == 6
    client.close()


@pytest.mark.parametrize("checksum", [False, True])
def test_tensors_of_every_kind_arrive_complete(transport: ProcessTransport, checksum: bool) -> None:
    tensors = {
        "value": torch.arange(100_000.0), "none": torch.empty(0, 3), "labels": torch.tensor([[1, 2]]),
        "half": torch.ones(5, dtype=torch.bfloat16), "last": torch.tensor(True),
    }  # fmt: skip
    with linked(replace(transport, checksum=checksum)) as (client, server):
        client.send(Frame(Kind.STEP, 1, tensors=tensors))
        arrived = server.receive(10).tensors
    assert [*arrived] == [*tensors]
    assert all(torch.equal(arrived[key], tensor) for key, tensor in tensors.items())


def test_a_client_may_connect_before_the_listener_exists(transport: ProcessTransport) -> None:
    address, ends, transport_20s = free_address(), list[ChannelEnd](), replace(transport, timeout_s=20)
    thread = threading.Thread(target=lambda: ends.append(transport_20s.connect(address, context(CLIENT))))
    thread.start()
    with closing(transport.listen(address, context(SERVER))) as listener:
        server = listener.accept(20)
        thread.join()
        ends[0].send(Frame(Kind.STEP, 3))
        assert server.receive(10).step == 3
        ends[0].close()


def test_a_missing_listener_is_a_timeout_with_address_and_stage(transport: ProcessTransport) -> None:
    address = free_address()
    with pytest.raises(PeerTimeout, match=rf"stage 0: no answer from stage 1 at {address} within 0\.2 s"):
        replace(transport, timeout_s=0.2).connect(address, context(CLIENT))


def test_a_missing_client_is_a_timeout_with_address_and_stage(listener: Listener) -> None:
    with pytest.raises(PeerTimeout, match=rf"stage 1: stage 0 did not connect to {listener.address} within 0\.05 s"):
        listener.accept(0.05)


def test_a_closed_listener_closes_its_ends(transport: ProcessTransport, listener: Listener) -> None:
    client, server = transport.connect(listener.address, context(CLIENT)), listener.accept(10)
    listener.close()
    with pytest.raises(WorkerLost, match=f"stage 1 at {listener.address}"):
        client.receive(10)
    client.close()
    server.close()
    with pytest.raises(WorkerLost, match="is closed"):
        listener.accept(10)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "example.org:80"])
def test_plaintext_beyond_loopback_is_refused(transport: ProcessTransport, bind: str) -> None:
    for open_link in (
        lambda: transport.listen(bind, context(SERVER)),
        lambda: transport.connect(bind, context(CLIENT)),
    ):
        with pytest.raises(ConfigError, match="insecure=true"):
            open_link()


def test_plaintext_beyond_loopback_can_be_allowed(transport: ProcessTransport) -> None:
    allowed = replace(transport, insecure=True)
    with closing(allowed.listen("0.0.0.0:0", context(SERVER))) as listener:
        listener.address = listener.address.replace("0.0.0.0", "127.0.0.1")
        assert_accepts(allowed, listener)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_a_link_on_loopback_listens_only_there(transport: ProcessTransport) -> None:
    with linked(transport):
        assert listening() == {"127.0.0.1"}


@pytest.mark.parametrize("bind", ["localhost", "127.0.0.1:", "127.0.0.1:http"])
def test_an_address_without_a_port_is_refused(transport: ProcessTransport, bind: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        transport.listen(bind, context(SERVER))


def test_a_port_in_use_is_refused(transport: ProcessTransport, listener: Listener) -> None:
    with pytest.raises(ConfigError, match=f"stage 1: cannot listen at {listener.address}"):
        transport.listen(listener.address, context(SERVER))


def test_the_interpreter_exits_with_open_links(name: str) -> None:
    with child(name, "alone") as process:
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (7, "")


def test_a_killed_peer_is_noticed_at_once_and_named(name: str, transport: ProcessTransport) -> None:
    if isinstance(transport, Grpc):
        transport.reconnect_s = 0
    with child(name, "listen") as process:
        end = transport.connect(address_of(process), context(CLIENT))
        process.send_signal(signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(WorkerLost, match=r"stage 1 at .* is gone") as error:
            end.receive(30)
        assert not isinstance(error.value, PeerTimeout)
        assert time.monotonic() - start < 5
        with pytest.raises(WorkerLost):
            end.send(Frame(Kind.STEP, 1))
        end.close()
