"""The door of a gRPC listener: strangers are told nothing, take little room, and never keep the previous stage out."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import torch

from dni.errors import ConfigError, HandshakeRefused, PeerTimeout
from tests.support.commands import wait_for
from tests.support.runs import tiny
from tests.support.transports import CLIENT, SERVER
from tests.workers.comm.transports.test_grpc import RawClient
from workers.comm.codec import decode, encode
from workers.comm.frame import Frame, Handshake, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc import link as grpc_link
from workers.comm.transports.grpc import options
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.secret import VARIABLE, prove
from workers.launch.launcher import launch

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

SECRET, OTHER = b"the secret of this run", b"the secret of another run"
SETTINGS = LinkSettings(timeout_s=20, reconnect_s=10, max_frame=2**20, secret=SECRET)
HELLO = replace(CLIENT, link=5)

#: All that a stranger is told.
NEUTRAL = "not a stage of this run"


@pytest.fixture
def listener() -> Iterator[GrpcListener]:
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        yield listener


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop silent clients after half a second."""
    monkeypatch.setattr(options, "SILENT_S", 0.5)
    monkeypatch.setattr(grpc_link, "SILENT_S", 0.5)


def hello(handshake: Handshake) -> bytes:
    return encode(Frame(Kind.HANDSHAKE, stage=handshake.stage, handshake=handshake))


def told(listener: GrpcListener, *messages: bytes) -> tuple[grpc.StatusCode, str]:
    """Return the status with which a client's call ends."""
    client = RawClient(listener.address, *messages, half_close=False)
    with closing(client), pytest.raises(grpc.RpcError) as error:
        list(client.replies)
    return error.value.code(), error.value.details()


def assert_serves(listener: GrpcListener, connect: Callable[[], ChannelEnd] | None = None) -> None:
    """Check that `accept` waits for the previous stage, and that the two exchange frames."""
    with pytest.raises(PeerTimeout):
        listener.accept(0)
    client = connect() if connect else grpc_connect(listener.address, CLIENT, SETTINGS)
    server = listener.accept(10)
    assert_works(client, server)
    client.close()
    server.close()


def assert_works(client: ChannelEnd, server: ChannelEnd) -> None:
    client.send(Frame(Kind.STEP, 1, tensors={"value": torch.ones(1)}))
    assert server.receive(10).step == 1
    server.send(Frame(Kind.DONE, 1))
    assert client.receive(10).kind is Kind.DONE


@pytest.mark.parametrize(
    "first",
    [
        hello(HELLO), hello(prove(HELLO, OTHER)), hello(replace(prove(HELLO, SECRET), run_id="other")),
        hello(replace(HELLO, run_id="other", proof=b"?" * 32)), encode(Frame(Kind.STEP, 1)), b"garbage", b"",
    ],
    ids=["no secret", "wrong secret", "changed", "guessed", "no handshake", "garbage", "nothing"],
)  # fmt: skip
def test_a_stranger_who_comes_first_is_told_nothing_and_changes_nothing(listener: GrpcListener, first: bytes) -> None:
    assert told(listener, first) == (grpc.StatusCode.UNAUTHENTICATED, NEUTRAL)
    assert_serves(listener)


def test_a_silent_stranger_is_dropped_and_told_nothing(impatient: None) -> None:
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        assert told(listener) == (grpc.StatusCode.DEADLINE_EXCEEDED, NEUTRAL)
        assert_serves(listener)


@pytest.mark.parametrize("secret", [OTHER, b""])
def test_a_stage_with_another_secret_learns_what_to_do(listener: GrpcListener, secret: bytes) -> None:
    with pytest.raises(HandshakeRefused, match=f"does not take this for a stage of its run: set {VARIABLE} to the"):
        grpc_connect(listener.address, CLIENT, replace(SETTINGS, secret=secret))
    assert_serves(listener)


def test_a_stage_with_a_secret_refuses_a_next_one_without() -> None:
    message = f"does not have the secret of this run: set {VARIABLE} to the same"
    with (
        closing(GrpcListener(handshake=SERVER, settings=replace(SETTINGS, secret=b""))) as listener,
        pytest.raises(HandshakeRefused, match=message),
    ):
        grpc_connect(listener.address, CLIENT, SETTINGS)


def test_a_stage_that_has_the_secret_and_other_settings_learns_why_it_is_refused(listener: GrpcListener) -> None:
    for refused in (lambda: grpc_connect(listener.address, replace(CLIENT, stages=9), SETTINGS), listener.accept):
        with pytest.raises(HandshakeRefused, match="stages is 9 at stage 0 and 4 at stage 1"):
            refused(*([10] if refused == listener.accept else []))
    assert_serves(listener)


def test_a_second_previous_stage_and_a_repeated_handshake_are_refused(listener: GrpcListener) -> None:
    recorded = hello(prove(HELLO, SECRET))
    client = RawClient(listener.address, recorded, half_close=False)
    server = listener.accept(10)
    for again in (recorded, hello(prove(replace(HELLO, link=6), SECRET))):
        code, details = told(listener, again)
        assert (code, details) == (
            grpc.StatusCode.FAILED_PRECONDITION, "handshake refused: stage 1 has its previous stage"
        )  # fmt: skip
    server.send(Frame(Kind.DONE, 3))
    assert [decode(reply).kind for _, reply in zip(range(2), client.replies, strict=False)][1] is Kind.DONE
    client.close()


def test_a_repeated_handshake_of_a_later_connection_does_not_take_the_link(listener: GrpcListener) -> None:
    first = RawClient(listener.address, hello(prove(HELLO, SECRET)), half_close=False)
    end = listener.accept(10)
    recorded = hello(prove(replace(HELLO, connection=1), SECRET))
    second = RawClient(listener.address, recorded, half_close=False)
    answer = decode(next(iter(second.replies))).handshake
    assert answer is not None
    assert answer.connection == 1
    code, details = told(listener, recorded)
    assert (code, "connection 1 is not a new one" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    end.send(Frame(Kind.DONE, 3))
    assert decode(next(iter(second.replies))).kind is Kind.DONE
    first.close()
    second.close()


def test_an_impostor_cannot_answer_with_a_recorded_handshake(listener: GrpcListener) -> None:
    client = RawClient(listener.address, hello(prove(HELLO, SECRET)), half_close=False)
    recorded = next(iter(client.replies))
    client.close()

    def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        next(requests)
        yield recorded

    handler = grpc.stream_stream_rpc_method_handler(answer)
    impostor = grpc.server(futures.ThreadPoolExecutor(2))
    impostor.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dni.v1.Stage", {"Link": handler}),))
    port = impostor.add_insecure_port("127.0.0.1:0")
    impostor.start()
    with pytest.raises(HandshakeRefused, match="the peer does not have the secret of this run"):
        grpc_connect(f"127.0.0.1:{port}", CLIENT, SETTINGS)
    impostor.stop(None).wait(5)


def test_an_oversized_frame_ends_the_call_of_a_stranger_alone(listener: GrpcListener) -> None:
    client = grpc_connect(listener.address, CLIENT, SETTINGS)
    server = listener.accept(10)
    code, details = told(listener, b"?" * (2**20 + 1))
    assert (code, details[:37]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than ")
    assert_works(client, server)
    client.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors as Linux lists them")
def test_300_idle_connections_take_few_descriptors_and_are_dropped(impatient: None) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(closing(GrpcListener(handshake=SERVER, settings=SETTINGS)))
        host, port = listener.address.split(":")
        before = descriptors()
        idle = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(300)]
        assert descriptors() - before <= 300 + 64 + 8  # 8: gRPC's own
        assert_serves(listener)
        for each in idle:
            each.settimeout(10)
            assert drained(each)


def drained(link: socket.socket) -> bool:
    """Return whether the other side has closed a connection."""
    try:
        while link.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def served() -> int:
    """Return the number of calls that a listener of this process serves."""
    return sum(thread.name == "dni-call" for thread in threading.enumerate())


@pytest.mark.long
def test_idle_calls_hold_up_the_previous_stage_for_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_link, "SILENT_S", 3.0)
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        strangers = [RawClient(listener.address, half_close=False) for _ in range(options.MOST_CALLS)]
        wait_for(lambda: served() == options.MOST_CALLS, "all calls", 10)
        assert told(listener, hello(prove(HELLO, SECRET)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        start = time.monotonic()
        assert_serves(listener)
        assert time.monotonic() - start < 10
        for each in strangers:
            each.close()


def test_no_file_of_a_run_and_no_log_holds_the_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, SECRET.decode())
    caplog.set_level("DEBUG")
    launch(tiny(transport={"kind": "grpc"}, checkpoint={"every": 5}), tmp_path / "run")
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) > 4
    assert not [file for file in files if SECRET in file.read_bytes()]
    assert SECRET.decode() not in caplog.text


def test_a_short_secret_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(ConfigError, match=f"{VARIABLE} has 5 characters"):
        launch(tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
