"""A gRPC link goes on over several connections: nothing is lost, repeated or left to a stranger."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import torch

from dni.errors import CorruptPayload, HandshakeRefused, WorkerLost
from tests.support.comm.proxy import Proxy, Way
from tests.support.edges import edge, step
from tests.support.transports import CLIENT, SERVER, context
from tests.workers.comm.transports.test_grpc import RawClient
from tests.workers.comm.transports.test_transport_contract import StagedOnCpu
from workers.comm.codec import decode, encode
from workers.comm.frame import Frame, Handshake, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc import end as grpc_end
from workers.comm.transports.grpc.end import GrpcEnd
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.grpc.transport import Grpc
from workers.comm.transports.process_link import LinkSettings

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

SETTINGS = LinkSettings(timeout_s=10, reconnect_s=10)
HELLO = replace(CLIENT, link=5)
AGAIN = replace(HELLO, connection=1)
CLOSE = 0  # in place of a sequence number: the frame that closes a link


@pytest.fixture
def listener() -> Iterator[GrpcListener]:
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        yield listener


@pytest.fixture
def proxy(listener: GrpcListener) -> Iterator[Proxy]:
    with closing(Proxy(listener.address)) as proxy:
        yield proxy


def numbered(sequence: int) -> Frame:
    return Frame(Kind.STEP, sequence, sequence, tensors={"value": torch.full((6000,), float(sequence))})


def raw(listener: GrpcListener, hello: Handshake, *sequences: int, half_close: bool = False) -> RawClient:
    frames = (encode(Frame(Kind.CLOSE) if sequence == CLOSE else numbered(sequence)) for sequence in sequences)
    hello_frame = encode(Frame(Kind.HANDSHAKE, handshake=hello))
    return RawClient(listener.address, hello_frame, *frames, half_close=half_close)


def test_repeated_frames_are_dropped(listener: GrpcListener) -> None:
    first = raw(listener, HELLO, 1, 2)
    end = listener.accept(10)
    assert [end.receive(10).step for _ in range(2)] == [1, 2]
    first.close()
    second = raw(listener, AGAIN, 1, 2, 3, 4)
    assert [end.receive(10).step for _ in range(2)] == [3, 4]
    assert end.poll() is None
    second.close()


@pytest.mark.parametrize("count", [0, 30, 60, 90, 120, 180, 240, 300])
def test_a_cut_before_the_first_answer_has_arrived_changes_nothing(
    count: int, listener: GrpcListener, proxy: Proxy
) -> None:
    """After so many bytes from the listener, which are part of its answer or come before it."""
    proxy.cut_after(Way.UP, count)
    client = grpc_connect(proxy.address, CLIENT, SETTINGS)
    server = listener.accept(10)
    client.send(numbered(1))
    assert server.receive(10).step == 1
    server.send(numbered(1))
    assert client.receive(10).step == 1
    client.close()
    server.close()


def test_a_link_begins_with_the_call_whose_answer_arrives(listener: GrpcListener) -> None:
    first = raw(listener, HELLO)
    end = listener.accept(10)
    first.close()
    again = replace(AGAIN, next_sequence=0)
    second = raw(listener, again, 1)
    greeting = decode(next(iter(second.replies))).handshake
    assert greeting is not None
    assert (greeting.next_sequence, end.receive(10).step) == (1, 1)
    replayed = raw(listener, again, 2)
    with pytest.raises(grpc.RpcError, match="connection 1 is not a new one"):
        next(iter(replayed.replies))
    for client in (second, replayed):
        client.close()


def test_a_link_begins_with_a_later_call_if_the_first_one_never_came(listener: GrpcListener) -> None:
    second = raw(listener, replace(HELLO, connection=2, next_sequence=0), 1)
    end = listener.accept(10)
    assert end.receive(10).step == 1
    replayed = raw(listener, AGAIN, 2)
    with pytest.raises(grpc.RpcError, match="connection 1 is not a new one"):
        next(iter(replayed.replies))
    for client in (second, replayed):
        client.close()


def damaged(sequence: int) -> bytes:
    data = bytearray(encode(numbered(sequence), checksum=True))
    data[-100] ^= 4
    return bytes(data)


def test_a_damaged_frame_is_sent_again(listener: GrpcListener) -> None:
    hello, again = (encode(Frame(Kind.HANDSHAKE, handshake=each)) for each in (HELLO, AGAIN))
    first = RawClient(listener.address, hello, encode(numbered(1)), damaged(2), encode(numbered(3)))
    end = listener.accept(10)
    assert end.receive(10).step == 1
    with pytest.raises(grpc.RpcError) as error:
        list(first.replies)  # the call is ended, for a new one
    assert error.value.code() is grpc.StatusCode.CANCELLED
    second = RawClient(listener.address, again, encode(numbered(2)), encode(numbered(3)))
    greeting = decode(next(iter(second.replies))).handshake
    assert greeting is not None
    assert greeting.next_sequence == 2
    assert [end.receive(10).step for _ in range(2)] == [2, 3]
    first.close()
    second.close()


def test_a_frame_that_comes_damaged_again_was_sent_so(listener: GrpcListener) -> None:
    hello, again = (encode(Frame(Kind.HANDSHAKE, handshake=each)) for each in (HELLO, AGAIN))
    first = RawClient(listener.address, hello, damaged(1))
    end = listener.accept(10)
    with pytest.raises(grpc.RpcError):
        list(first.replies)
    second = RawClient(listener.address, again, damaged(1), encode(numbered(2)))
    with pytest.raises(CorruptPayload, match=r"step 1 .*checksum"):
        end.receive(10)
    assert end.receive(10).step == 2
    first.close()
    second.close()


def test_a_call_that_ends_without_a_last_word_was_cut(listener: GrpcListener) -> None:
    """gRPC ends the requests of a cut call as those of a finished one, if the end arrives before the reason."""
    first = raw(listener, HELLO, 1, half_close=True)
    end = listener.accept(10)
    assert end.receive(10).step == 1
    second = raw(listener, AGAIN, 2)
    assert end.receive(10).step == 2
    assert end.reconnects == 1
    first.close()
    second.close()


def test_a_link_that_was_closed_in_order_is_over_and_is_not_made_anew(listener: GrpcListener) -> None:
    first = raw(listener, HELLO, 1, CLOSE, half_close=True)
    end = listener.accept(10)
    assert end.receive(10).step == 1
    with pytest.raises(WorkerLost, match=r"stage 0 at .* ended the link or is gone"):
        end.receive(5)  # at once, not after reconnect_s
    second = raw(listener, AGAIN)
    greeting, *more = second.replies  # the call ends without an error
    answer = decode(greeting).handshake
    assert answer is not None
    assert (answer.next_sequence, more) == (2, [])
    assert end.reconnects == 0
    first.close()
    second.close()


def cut_while_closing(proxy: Proxy, end: ChannelEnd) -> threading.Thread:
    """Close an end in a thread, which is returned, and cut its connection before anything of that has arrived."""
    flowing = proxy.stall()
    closing_end = threading.Thread(target=end.close)
    closing_end.start()
    assert isinstance(end, GrpcEnd)
    while not end._finishing:
        time.sleep(0.01)
    proxy.cut()
    flowing.set()
    return closing_end


def test_a_previous_stage_without_a_connection_learns_that_the_next_one_has_closed() -> None:
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        proxy = Proxy(listener.address)
        client, server = grpc_connect(proxy.address, CLIENT, SETTINGS), listener.accept(10)
        closing_server = cut_while_closing(proxy, server)
        with pytest.raises(WorkerLost, match=r"stage 1 at .* ended the link or is gone"):
            client.receive(8)
        closing_server.join(10)
        client.close()
        proxy.close()


def test_a_connection_that_breaks_while_the_link_is_closed_is_no_news(
    listener: GrpcListener, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The next stage may exit before the previous one has read that its call ended; a lost CLOSE is sent again."""
    client, server = grpc_connect(proxy.address, CLIENT, SETTINGS), listener.accept(10)
    closing_client = cut_while_closing(proxy, client)
    with pytest.raises(WorkerLost, match=r"stage 0 at .* ended the link or is gone"):
        server.receive(8)
    closing_client.join(10)
    server.close()
    assert isinstance(client, GrpcEnd)
    assert client.reconnects == 1
    assert not [record for record in caplog.messages if record.startswith("stage 0")]


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        (replace(AGAIN, link=6), "stage 0 connects again, and stage 1 has no link 6"),
        (replace(AGAIN, run_id="other"), "run_id is 'other' at stage 0 and 'run' at stage 1"),
        (replace(AGAIN, fingerprint="else"), "fingerprint is 'else' at stage 0"),
    ],
)
def test_a_stranger_is_refused_and_the_link_goes_on(listener: GrpcListener, hello: Handshake, message: str) -> None:
    first = raw(listener, HELLO, 1)
    end = listener.accept(10)
    assert end.receive(10).step == 1
    first.close()
    stranger = raw(listener, hello, 2)
    with pytest.raises(grpc.RpcError, match=message) as error:
        next(iter(stranger.replies))
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    stranger.close()
    second = raw(listener, AGAIN, 2)
    assert end.receive(10).step == 2
    second.close()


def test_a_peer_that_expects_a_frame_that_is_not_kept_is_refused(listener: GrpcListener) -> None:
    first = raw(listener, HELLO, 1)
    end = listener.accept(10)
    assert end.receive(10).step == 1
    first.close()
    second = raw(listener, replace(AGAIN, next_sequence=9))
    with pytest.raises(HandshakeRefused, match="next_sequence is 9 at stage 0; stage 1 has sent 0 frames and keeps"):
        end.receive(10)
    second.close()


def test_a_next_stage_that_was_started_again_is_refused() -> None:
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as first, closing(Proxy(first.address)) as proxy:
        client = grpc_connect(proxy.address, CLIENT, SETTINGS)
        with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as second:
            proxy.lead_to(second.address)
            proxy.cut()
            with pytest.raises(HandshakeRefused, match="its process was started again"):
                client.receive(10)
        client.close()


@pytest.mark.parametrize("reconnect_s", [0.0, 0.3])
def test_the_link_is_lost_after_the_given_time(reconnect_s: float) -> None:
    settings = replace(SETTINGS, reconnect_s=reconnect_s)
    with closing(GrpcListener(handshake=SERVER, settings=settings)) as listener:
        proxy = Proxy(listener.address)
        client = grpc_connect(proxy.address, CLIENT, settings)
        server = listener.accept(10)
        client.send(numbered(1))
        assert server.receive(10).step == 1
        proxy.close()
        for end, sent in ((client, "received 0 frames, sent 1, of which 1"), (server, "received 1 frames, sent 0, of")):
            why = rf"no connection again within 0\.3 s .*: {sent}" if reconnect_s else "is gone"
            with pytest.raises(WorkerLost, match=rf"stage \d at .*{why}"):
                end.receive(10)
            end.close()


def test_cuts_at_any_byte_change_nothing(listener: GrpcListener, proxy: Proxy) -> None:
    client, server = grpc_connect(proxy.address, CLIENT, SETTINGS), listener.accept(10)
    down, up = edge((client, server))
    draw = random.Random(0)
    gradients = []

    def answer() -> None:
        for number in range(60):
            frame = up.receive()
            assert frame.step == number
            up.finish(frame, torch.full((3, 2, 5), float(number)))

    answering = threading.Thread(target=answer)
    answering.start()
    for number in range(60):
        if number % 6 == 0:
            proxy.cut_after(draw.choice(list(Way)), draw.randrange(4000))
        down.send(Kind.STEP, number, step())
        assert isinstance(client, GrpcEnd)
        assert len(client._kept) <= 8  # the window
        gradients += list(down.targets(number - 3) if number >= 3 else [])
    gradients += list(down.drain())
    answering.join(10)
    assert [(target.step, target.gradient[0, 0, 0].item()) for target in gradients] == [(n, n) for n in range(60)]
    assert client.reconnects >= 3
    assert not client._kept
    client.close()
    server.close()


@pytest.mark.parametrize("variant", ["ring", "staged"])
def test_payloads_in_shared_memory_and_from_a_gpu_are_sent_again(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variant == "staged":
        monkeypatch.setattr(grpc_end, "staging_for", lambda device: StagedOnCpu())
    previous, following = (context(each, sockets=tmp_path) for each in (CLIENT, SERVER))
    with closing(Grpc(timeout_s=10).edge(previous, following)) as made:
        client, server = made.downstream, made.upstream
        assert isinstance(client, GrpcEnd)
        for sequence in range(1, 41):
            client.send(numbered(sequence))
            server.send(numbered(sequence))
            if sequence % 10 == 5:
                client._call.cancel()
        for end in (server, client):
            for sequence in range(1, 41):
                frame = end.receive(10)
                assert (frame.sequence, frame.tensors["value"].unique().tolist()) == (sequence, [sequence])
        assert client.reconnects >= 1
