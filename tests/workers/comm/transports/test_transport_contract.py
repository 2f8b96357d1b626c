"""The contract of every transport: one suite for all, over real sockets."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol
from unittest.mock import Mock

import pytest
import torch

from dni.errors import FlowControlError, PeerTimeout, WorkerLost
from tests.plugin.tcp import Tcp
from tests.support.stand_in import GlooGroup
from tests.support.transports import CLIENT, SERVER, context
from workers.comm.codec import new_tensor
from workers.comm.frame import Frame, Kind
from workers.comm.header import Spec
from workers.comm.transports.base import ChannelEnd, Transport
from workers.comm.transports.grpc import end as grpc_end
from workers.comm.transports.grpc.transport import Grpc
from workers.comm.transports.local import Local, clone
from workers.comm.transports.staging import PendingCopy
from workers.comm.transports.torch_distributed import end as torch_distributed_end
from workers.comm.transports.torch_distributed import nccl
from workers.comm.transports.torch_distributed.transport import Backend, TorchDistributed

Ends = tuple[ChannelEnd, ChannelEnd]


class Connect(Protocol):
    def __call__(self, limit: int = 64, delay_s: float = 0.0) -> Ends: ...


class StagedOnCpu:
    """Replaces the copies between GPU and CPU on machines without a GPU."""

    def start_copy(self, frame: Frame) -> PendingCopy:
        return PendingCopy(clone(frame), Mock(spec=torch.cuda.Event))

    def allocate(self, spec: Spec) -> torch.Tensor:
        return new_tensor(spec)

    def on_take(self, frame: Frame) -> Frame:
        return frame


#: Transports and their variants; "unix" and "ring" use unix sockets.
VARIANTS: dict[str, Transport] = {
    "local": Local(), "grpc": Grpc(), "unix": Grpc(ring_mb=0), "ring": Grpc(), "grpc, staged": Grpc(),
    "torch_distributed": TorchDistributed(), "torch_distributed, staged": TorchDistributed(),
    "torch_distributed, direct": TorchDistributed(backend=Backend.nccl), "tcp": Tcp(),
}  # fmt: skip


@pytest.fixture(params=VARIANTS)
def connect(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Yield a function that opens a link and returns its two ends; close the links after the test."""
    if request.param.endswith("staged"):
        for module in (grpc_end, torch_distributed_end):
            monkeypatch.setattr(module, "staging_for", lambda device: StagedOnCpu())
    monkeypatch.setattr(nccl, "nccl_group", GlooGroup)
    sockets = tmp_path if request.param in ("unix", "ring") else None
    with ExitStack() as stack:

        def connect_link(limit: int = 64, delay_s: float = 0.0) -> Ends:
            transport = replace(VARIANTS[request.param], delay_ms=1000 * delay_s, timeout_s=30)
            previous, next_stage = (context(each, limit, sockets) for each in (CLIENT, SERVER))
            edge = stack.enter_context(closing(transport.edge(previous, next_stage)))
            return edge.downstream, edge.upstream

        yield connect_link


def step(number: int, size: int = 3) -> Frame:
    return Frame(Kind.STEP, number, tensors={"value": torch.full((size,), float(number))})


def received(end: ChannelEnd, count: int) -> list[int]:
    return [end.receive(10).step for _ in range(count)]


def test_frames_arrive_in_order_both_ways(connect: Connect) -> None:
    a, b = connect()
    for number in range(20):
        a.send(step(number))
        b.send(step(100 + number))
    assert received(b, 20) == list(range(20))
    assert received(a, 20) == list(range(100, 120))


def test_a_frame_keeps_every_field(connect: Connect) -> None:
    a, b = connect()
    a.send(Frame(Kind.GRADIENT, 7, 3, 2, 1, {"x": torch.tensor([1.5]), "y": torch.tensor([[True]])}))
    frame = b.receive(10)
    assert (frame.kind, frame.step, frame.sequence, frame.done_through, frame.stage) == (Kind.GRADIENT, 7, 3, 2, 1)
    assert [(n, t.dtype, t.tolist()) for n, t in frame.tensors.items()] == [
        ("x", torch.float32, [1.5]),
        ("y", torch.bool, [[True]]),
    ]


def test_the_sender_may_change_a_sent_tensor(connect: Connect) -> None:
    a, b = connect()
    value = torch.ones(1000)
    a.send(Frame(Kind.STEP, 1, tensors={"value": value}))
    value.zero_()
    assert b.receive(10).tensors["value"].sum() == 1000


def test_the_receiver_may_change_a_received_tensor(connect: Connect) -> None:
    a, b = connect()
    value = torch.ones(1000)
    for _ in range(2):
        a.send(Frame(Kind.STEP, 1, tensors={"value": value}))
    b.receive(10).tensors["value"].zero_()
    assert value.sum() == 1000
    assert b.receive(10).tensors["value"].sum() == 1000


def test_a_strided_tensor_that_needs_gradients_arrives_contiguous_and_plain(connect: Connect) -> None:
    a, b = connect()
    value = torch.arange(6.0, requires_grad=True).reshape(2, 3).t()
    a.send(Frame(Kind.STEP, 1, tensors={"value": value}))
    arrived = b.receive(10).tensors["value"]
    assert arrived.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrived.is_contiguous()
    assert not arrived.requires_grad


def test_poll_and_pending_count_received_frames(connect: Connect) -> None:
    a, b = connect()
    assert b.poll() is None
    assert b.pending() == 0
    for number in range(3):
        a.send(step(number))
    assert received(b, 1) == [0]
    a.close()  # delivers the other two
    assert b.pending() == 2
    polled = [b.poll(), b.poll()]
    assert [frame.step for frame in polled if frame is not None] == [1, 2]


def test_receive_gives_up_after_its_timeout(connect: Connect) -> None:
    _, b = connect()
    start = time.monotonic()
    with pytest.raises(PeerTimeout, match=r"within 0\.05 s"):
        b.receive(0.05)
    assert time.monotonic() - start >= 0.05


def test_more_frames_than_the_limit_is_a_named_error(connect: Connect) -> None:
    a, b = connect(limit=4)
    with pytest.raises((FlowControlError, WorkerLost)) as sender:
        send_all(a, 1000)
    assert b.pending() <= 4
    if isinstance(sender.value, WorkerLost):  # the receiver noticed first and has the reason
        received(b, 4)
        with pytest.raises(FlowControlError, match="4 frames"):
            b.receive(10)


def send_all(end: ChannelEnd, count: int) -> None:
    for number in range(count):
        end.send(step(number))


def test_the_delay_is_added_once_to_each_frame_and_does_not_limit_the_rate(connect: Connect) -> None:
    delay = 0.2
    a, b = connect(delay_s=delay)
    sent = []
    for number in range(20):
        sent.append(time.monotonic())
        a.send(step(number))
    delays = []
    for number in range(20):
        assert b.receive(10).step == number
        delays.append(time.monotonic() - sent[number])
    assert min(delays) >= delay
    assert time.monotonic() - sent[0] < 10 * delay  # sequential frames would take 20 delays


def test_a_round_trip_takes_twice_the_delay(connect: Connect) -> None:
    a, b = connect(delay_s=0.05)
    start = time.monotonic()
    a.send(step(1))
    b.send(b.receive(10))
    a.receive(10)
    assert 0.1 <= time.monotonic() - start < 5


@pytest.mark.parametrize("closer", [0, 1])
def test_close_delivers_sent_frames_and_then_the_peer_raises_worker_lost(connect: Connect, closer: int) -> None:
    ends = connect()
    closing, other = ends[closer], ends[1 - closer]
    for number in range(8):
        closing.send(step(number, size=250_000))
    closing.close()
    assert received(other, 8) == list(range(8))
    for _ in range(2):
        with pytest.raises(WorkerLost):
            other.receive(10)
    with pytest.raises(WorkerLost):
        other.poll()
    with pytest.raises(WorkerLost):
        other.send(step(9))


def test_close_is_idempotent_and_send_fails_after_it(connect: Connect) -> None:
    a, b = connect()
    a.close()
    a.close()
    with pytest.raises(ValueError, match="step 3: STEP"):
        a.send(step(3))
    with pytest.raises(WorkerLost):
        a.receive(10)
    b.close()


def test_both_ends_may_close_first(connect: Connect) -> None:
    a, b = connect(delay_s=0.01)
    a.send(step(1))
    b.send(step(2))
    b.close()
    a.close()
    assert received(a, 1) == [2]


def test_a_loss_is_delayed_like_a_frame(connect: Connect) -> None:
    a, b = connect(delay_s=0.1)
    start = time.monotonic()
    a.close()
    with pytest.raises(WorkerLost):
        b.receive(10)
    assert time.monotonic() - start >= 0.1
