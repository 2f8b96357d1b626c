"""Credit: the limit of frames in flight, and how it is returned."""

import threading

import pytest

from dni.errors import FlowControlError, OutOfOrder, PeerTimeout
from tests.support.comm.edge_in_one_thread import SHORT, Edge, checked
from tests.support.faulty import Fault
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd


def test_credit_limits_the_frames_in_flight() -> None:
    edge = Edge(window=2)
    edge.send(1, 2)
    with pytest.raises(PeerTimeout, match="stage 1, waiting for credit for STEP of step 3 from stage 2"):
        edge.send(3)
    assert edge.down.in_flight == 2
    assert edge.b.pending() == 2
    edge.answer()
    edge.send(3)
    assert [edge.up.receive().sequence for _ in range(2)] == [2, 3]


def test_targets_that_arrive_while_send_waits_for_credit_are_kept_in_order() -> None:
    edge = Edge(window=2)
    edge.send(1, 2)
    edge.answer(2)
    edge.send(3, 4)
    edge.answer(2)
    assert edge.targets(3) == [1, 2, 3]
    assert edge.targets() == [4]


@pytest.mark.parametrize("window", [2, 5])
@pytest.mark.parametrize("action", ["drop", "duplicate", "delay"])
def test_credit_never_leaks(window: int, action: str) -> None:
    faults = [Fault(Kind.GRADIENT, step, action) for step in range(1, 200, 3)]  # type: ignore[arg-type]
    edge = Edge(window=window, faults=faults, timeout_s=10)
    max_pending = 0

    def peer() -> None:
        nonlocal max_pending
        for _ in range(200):
            max_pending = max(max_pending, edge.b.pending())
            edge.answer(gradient=True)
        frame = edge.up.receive()
        edge.up.finish(frame)

    thread = threading.Thread(target=peer)
    thread.start()
    steps = []
    for step in range(1, 201):
        edge.send(step)
        steps += edge.targets()
    edge.send(200, kind=Kind.END)
    steps += checked(edge.down.drain())
    thread.join()
    assert edge.down.in_flight == 0
    assert max_pending <= window
    lost, twice = set(range(1, 200, 3)), [*range(1, 200, 3)]
    assert set(steps) == set(range(1, 201)) - (lost if action == "drop" else set())
    assert len(steps) == 200 + {"drop": -len(lost), "duplicate": len(twice), "delay": 0}[action]


def test_drain_waits_for_frames_of_every_kind() -> None:
    edge = Edge(window=8)
    edge.send(1)
    edge.send(1, kind=Kind.EVALUATE)
    edge.send(1, kind=Kind.CHECKPOINT)
    edge.answer()
    edge.answer(gradient=False)
    drained = edge.down.drain()
    assert next(drained)[0] == 1
    with pytest.raises(PeerTimeout, match="the end of all sent frames"):
        next(drained)
    edge.answer(gradient=False)
    assert list(edge.down.drain()) == []


def test_drain_needs_no_peer_when_every_frame_is_finished() -> None:
    edge = Edge()
    edge.send(1)
    edge.answer()
    edge.targets(1)
    edge.b.close()
    assert list(edge.down.drain()) == []


@pytest.mark.parametrize("wait_for", [None, 1])
def test_a_peer_that_exceeds_its_credit_ends_the_link(wait_for: int | None) -> None:
    edge = Edge()
    edge.send(1)
    done = Frame(Kind.DONE, done_through=0)
    with pytest.raises(FlowControlError):
        flood(edge.b, done)
    with pytest.raises(FlowControlError, match="exceeds its credit"):
        edge.targets(wait_for)


def flood(end: ChannelEnd, frame: Frame) -> None:
    for _ in range(65):
        end.send(frame)


def test_more_frames_done_than_sent_is_an_error() -> None:
    edge = Edge()
    edge.send(1)
    edge.b.send(Frame(Kind.DONE, 1, done_through=2))
    with pytest.raises(OutOfOrder, match="done through frame 2; only 1 were sent"):
        edge.targets(1)


def test_a_smaller_done_through_is_ignored() -> None:
    edge = Edge()
    edge.send(1, 2)
    for done in (2, 1):
        edge.b.send(Frame(Kind.DONE, 2, done_through=done))
    assert edge.targets() == []
    assert edge.down.in_flight == 0


def test_too_many_targets_that_are_not_taken_are_an_error() -> None:
    edge = Edge(window=1)
    for step in range(1, 6):
        edge.send(step)
        edge.answer()
    with pytest.raises(FlowControlError, match="stage 1, step 5: 4 targets arrived and were not taken"):
        edge.send(6)


def test_waiting_time_is_counted() -> None:
    edge = Edge()
    with pytest.raises(PeerTimeout):
        edge.targets(wait_for_sent(edge))
    assert SHORT <= edge.clock.seconds < 100 * SHORT


def wait_for_sent(edge: Edge) -> int:
    edge.send(1)
    return 1
