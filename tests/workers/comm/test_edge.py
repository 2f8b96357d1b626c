"""Order and credit: targets late, in bursts, twice or never."""

import logging
import threading
from collections.abc import Iterable

import pytest
import torch

from dni.errors import FlowControlError, OutOfOrder, PeerTimeout, TruncatedFrame, WorkerLost
from tests.support.faulty import Fault, FaultyEnd
from workers.comm.downstream import Downstream
from workers.comm.edge import Blocked, Loss, Target
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.local import LocalEnd, local_channel
from workers.comm.upstream import Upstream

SHORT = 0.05


class Edge:
    """Both sides of an edge between stages 1 and 2, in one thread; `timeout_s` ends what would block."""

    def __init__(self, window: int = 4, faults: Iterable[Fault] = (), timeout_s: float = SHORT) -> None:
        self.a, self.b = local_channel(64)
        self.clock = Blocked()
        self.down = Downstream(self.a, stage=1, window=window, clock=self.clock, timeout_s=timeout_s)
        back: ChannelEnd = FaultyEnd(self.b, faults)
        self.up = Upstream(back, stage=2, clock=Blocked(), timeout_s=timeout_s)

    def send(self, *steps: int, kind: Kind = Kind.STEP) -> None:
        for step in steps:
            self.down.send(kind, step, {"value": torch.tensor([float(step)])})

    def answer(self, count: int = 1, gradient: bool = True) -> None:
        for _ in range(count):
            frame = self.up.receive()
            self.up.finish(frame, torch.tensor([10.0 * frame.step]) if gradient else None)

    def damage(self) -> None:
        """A malformed frame arrives from downstream."""
        assert isinstance(self.a, LocalEnd)
        self.a._inbox.put(TruncatedFrame("malformed frame from stage 2"))

    def targets(self, wait_for: int | None = None) -> list[int]:
        return checked(self.down.targets(wait_for))


def checked(targets: Iterable[Target]) -> list[int]:
    """The steps, each with its own gradient."""
    found = list(targets)
    gradients = [None if target.gradient is None else target.gradient.item() for target in found]
    assert gradients == [10.0 * target.step for target in found]
    return [target.step for target in found]


def test_frames_are_numbered_from_one_whatever_their_kind() -> None:
    edge = Edge()
    edge.send(1)
    edge.send(1, kind=Kind.EVALUATE)
    edge.send(2)
    frames = [edge.up.receive() for _ in range(3)]
    assert [(f.sequence, f.kind, f.step, f.stage) for f in frames] == [
        (1, Kind.STEP, 1, 1),
        (2, Kind.EVALUATE, 1, 1),
        (3, Kind.STEP, 2, 1),
    ]


def test_free_running_takes_what_has_arrived() -> None:
    edge = Edge()
    edge.send(1, 2)
    assert edge.targets() == []
    edge.answer(2)
    assert edge.targets() == [1, 2]
    assert edge.targets() == []


def test_a_burst_arrives_in_order() -> None:
    edge = Edge(window=8)
    edge.send(*range(1, 9))
    edge.answer(8)
    assert edge.down.pending() == 8
    assert edge.targets() == list(range(1, 9))
    assert edge.down.pending() == 0


def test_waiting_for_a_step_leaves_newer_ones_for_later() -> None:
    edge = Edge()
    edge.send(1, 2, 3)
    edge.answer(3)
    assert edge.targets(1) == [1]
    assert edge.targets(1) == []
    assert edge.targets(3) == [2, 3]


def test_waiting_for_a_step_blocks_until_its_target_is_there() -> None:
    edge = Edge(timeout_s=10)
    edge.send(1, 2)
    thread = threading.Thread(target=edge.answer, args=(2,))
    thread.start()
    assert edge.targets(2) == [1, 2]
    thread.join()


def test_a_step_that_was_never_sent_is_not_waited_for() -> None:
    edge = Edge()
    edge.send(5)
    assert edge.targets(4) == []
    assert edge.targets(-3) == []


def test_a_frame_done_without_gradient_ends_the_wait() -> None:
    edge = Edge()
    edge.send(1, 2)
    edge.answer(1, gradient=False)
    assert edge.targets(1) == []
    edge.answer()
    assert edge.targets(2) == [2]


def test_news_come_back_without_a_gradient_too() -> None:
    edge = Edge()
    edge.send(1, 2, 3)
    for losses in ([Loss(1, 0.5, 7)], [], [Loss(2, 1.5, 7)]):
        edge.up.finish(edge.up.receive(), losses=losses)
    assert list(edge.down.targets(1)) == [Target(1, None, (Loss(1, 0.5, 7),))]
    assert list(edge.down.targets(3)) == [Target(3, None, (Loss(2, 1.5, 7),))]
    assert edge.down.in_flight == 0


def test_a_late_gradient_names_its_own_step_and_only_the_last_answer_returns_credit() -> None:
    edge = Edge()
    edge.send(1, 2, 3)
    frames = [edge.up.receive() for _ in range(3)]
    edge.up.finish(frames[0])
    edge.up.finish(frames[1], torch.tensor([10.0]), late=1, more=True)
    assert [(t.step, t.late, t.gradient) for t in edge.down.targets()] == [(2, 1, 10.0)]
    assert edge.down.in_flight == 2
    edge.up.finish(frames[1], torch.tensor([20.0]))
    assert edge.targets(2) == [2]
    assert edge.down.in_flight == 1


def test_a_late_gradient_that_follows_an_exchange_is_not_its_answer() -> None:
    edge = Edge(timeout_s=10)
    assert exchanged(edge).item() == 20.0
    edge.send(3)
    edge.up.finish(edge.up.receive(), torch.tensor([20.0]), late=1, more=True)
    assert [(t.step, t.late, t.gradient) for t in edge.down.targets()] == [(3, 1, 20.0)]


def exchanged(edge: Edge, gradient: bool = True) -> torch.Tensor:
    """A probe after step 2, answered in another thread."""
    thread = threading.Thread(target=edge.answer, args=(edge.down.in_flight + 1, gradient))
    thread.start()
    try:
        return edge.down.exchange(Kind.PROBE, 2, {"value": torch.ones(1)})
    finally:
        thread.join()


def test_the_answer_to_an_exchange_is_no_target_and_targets_are_not_its_answer() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 1, "duplicate")], timeout_s=10)
    edge.send(1, 2)
    assert exchanged(edge).item() == 20.0
    assert edge.down.in_flight == 0
    assert edge.targets(2) == [1, 1, 2]
    edge.send(3)
    assert exchanged(edge).item() == 20.0
    assert edge.targets() == [3]


def test_an_answer_that_comes_twice_is_still_no_target() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 2, "duplicate")], timeout_s=10)
    assert exchanged(edge).item() == 20.0
    edge.send(3)
    edge.answer()
    assert edge.targets() == [3]


def test_a_target_that_is_later_than_the_exchange_is_a_target() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 1, "delay", sends=2)], timeout_s=10)
    edge.send(1)
    assert exchanged(edge).item() == 20.0
    assert edge.targets() == []
    edge.send(3)
    edge.answer()
    assert edge.targets() == [3, 1]


def test_an_exchange_without_a_gradient_is_an_error() -> None:
    edge = Edge(timeout_s=10)
    with pytest.raises(OutOfOrder, match="stage 1: PROBE of step 2 was answered without a gradient"):
        exchanged(edge, gradient=False)
    damaged = Edge()
    damaged.damage()
    with pytest.raises(TruncatedFrame):
        damaged.down.exchange(Kind.PROBE, 2, {"value": torch.ones(1)})
    with pytest.raises(PeerTimeout, match="stage 1, waiting for the answer to PROBE of step 2 from stage 2"):
        Edge().down.exchange(Kind.PROBE, 2, {"value": torch.ones(1)})


def test_a_lost_target_is_given_up_when_later_news_comes() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 2, "drop")])
    edge.send(1, 2)
    edge.answer(2)
    with pytest.raises(PeerTimeout, match="stage 1, waiting for the target of step 2 from stage 2"):
        edge.targets(2)
    edge.send(3)
    edge.answer()
    assert edge.targets(2) == []
    assert edge.targets(3) == [3]
    assert edge.down.in_flight == 0


def test_a_timeout_comes_after_the_targets_that_were_received() -> None:
    edge = Edge()
    edge.send(1, 2)
    edge.answer()
    found = edge.down.targets(2)
    assert next(found)[0] == 1
    with pytest.raises(PeerTimeout):
        next(found)


def test_a_target_that_comes_twice_is_yielded_twice_and_returns_credit_once() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 1, "duplicate")])
    edge.send(1, 2)
    edge.answer(2)
    assert edge.targets() == [1, 1, 2]
    assert edge.down.in_flight == 0


def test_a_target_overtaken_by_a_later_one_is_late_not_lost() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 1, "delay", sends=1)])
    edge.send(1, 2)
    edge.answer(2)
    assert edge.targets(1) == []  # news of step 2 says that step 1 is done
    assert edge.targets(2) == [2]
    assert edge.targets() == [1]
    assert edge.down.in_flight == 0


def test_credit_limits_what_is_in_flight() -> None:
    edge = Edge(window=2)
    edge.send(1, 2)
    with pytest.raises(PeerTimeout, match="stage 1, waiting for credit for STEP of step 3 from stage 2"):
        edge.send(3)
    assert edge.down.in_flight == 2
    assert edge.b.pending() == 2
    edge.answer()
    edge.send(3)
    assert [edge.up.receive().sequence for _ in range(2)] == [2, 3]


def test_targets_that_arrive_while_credit_is_awaited_are_kept_in_order() -> None:
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
    most = 0

    def peer() -> None:
        nonlocal most
        for _ in range(200):
            most = max(most, edge.b.pending())
            edge.answer(gradient=True)
        frame = edge.up.receive()
        edge.up.finish(frame)

    thread = threading.Thread(target=peer)
    thread.start()
    found = []
    for step in range(1, 201):
        edge.send(step)
        found += edge.targets()
    edge.send(200, kind=Kind.END)
    found += checked(edge.down.drain())
    thread.join()
    assert edge.down.in_flight == 0
    assert most <= window
    lost, twice = set(range(1, 200, 3)), [*range(1, 200, 3)]
    assert set(found) == set(range(1, 201)) - (lost if action == "drop" else set())
    assert len(found) == 200 + {"drop": -len(lost), "duplicate": len(twice), "delay": 0}[action]


def test_a_fixed_lag_gives_the_same_targets_at_every_step() -> None:
    edge = Edge(window=4, timeout_s=10)
    thread = threading.Thread(target=edge.answer, args=(50,))
    thread.start()
    for step in range(1, 51):
        edge.send(step)
        assert edge.targets(step - 3) == ([step - 3] if step > 3 else [])
    assert checked(edge.down.drain()) == [48, 49, 50]
    thread.join()


def test_drain_waits_for_frames_of_every_kind() -> None:
    edge = Edge(window=8)
    edge.send(1)
    edge.send(1, kind=Kind.EVALUATE)
    edge.send(1, kind=Kind.MARK)
    edge.answer()
    edge.answer(gradient=False)
    drained = edge.down.drain()
    assert next(drained)[0] == 1
    with pytest.raises(PeerTimeout, match="the end of all that was sent"):
        next(drained)
    edge.answer(gradient=False)
    assert list(edge.down.drain()) == []


def test_drain_needs_no_peer_when_everything_is_done() -> None:
    edge = Edge()
    edge.send(1)
    edge.answer()
    edge.targets(1)
    edge.b.close()
    assert list(edge.down.drain()) == []


def test_a_next_stage_that_ended_after_its_work_is_no_loss_until_something_is_sent() -> None:
    edge = Edge()
    edge.send(1)
    edge.answer()
    edge.b.close()
    assert edge.targets() == [1]
    assert edge.targets() == []
    with pytest.raises(WorkerLost, match="stage 1, sending STEP of step 2 to stage 2"):
        edge.send(2)


def test_a_dead_peer_is_reported_after_its_last_targets() -> None:
    edge = Edge()
    edge.send(1, 2)
    edge.answer()
    edge.b.close()
    for wait_for in (2, None):
        found = edge.down.targets(wait_for)
        if wait_for is not None:
            assert next(found)[0] == 1
        with pytest.raises(WorkerLost, match=r"stage 1, .* stage 2"):
            next(found)


def test_a_dead_peer_is_reported_to_who_waits_for_credit_and_no_target_is_lost() -> None:
    edge = Edge(window=2)
    edge.send(1, 2)
    edge.b.send(Frame(Kind.GRADIENT, 1, done_through=0, tensors={"gradient": torch.tensor([10.0])}))
    edge.b.close()
    with pytest.raises(WorkerLost, match="stage 1, waiting for credit for STEP of step 3 from stage 2"):
        edge.send(3)
    found = edge.down.targets()
    assert next(found)[0] == 1
    with pytest.raises(WorkerLost):
        next(found)


def test_a_dead_peer_wakes_a_stage_that_is_waiting() -> None:
    edge = Edge(window=1, timeout_s=30)
    edge.send(1)
    threading.Timer(0.05, edge.b.close).start()
    with pytest.raises(WorkerLost, match="closed"):
        edge.send(2)
    assert edge.clock.seconds > 0


def test_a_malformed_gradient_is_a_missing_target_when_free_running(caplog: pytest.LogCaptureFixture) -> None:
    edge = Edge()
    edge.send(1, 2)
    edge.damage()
    edge.answer(2)
    with caplog.at_level(logging.WARNING):
        assert edge.targets() == [1, 2]
    assert "stage 1, step 0 or later: target dropped: malformed frame from stage 2" in caplog.text


def test_a_malformed_gradient_is_an_error_in_its_place_when_waited_for() -> None:
    edge = Edge(window=2)
    edge.send(1, 2)
    edge.answer()
    edge.damage()
    edge.answer()
    edge.send(3, 4)  # receives all three on the way
    assert edge.targets(1) == [1]
    with pytest.raises(TruncatedFrame):
        edge.targets(2)
    assert edge.targets(2) == [2]


def test_a_malformed_gradient_is_an_error_at_once_though_nothing_follows() -> None:
    edge = Edge(timeout_s=30)
    edge.send(1)
    edge.damage()
    with pytest.raises(TruncatedFrame):
        edge.targets(1)


def test_a_malformed_gradient_spends_no_credit() -> None:
    edge = Edge(window=1)
    edge.send(1)
    edge.damage()
    edge.answer()
    edge.send(2)
    assert edge.down.in_flight == 1


def test_a_malformed_forward_frame_is_raised_in_its_place_and_the_edge_lives_on() -> None:
    edge = Edge()
    assert isinstance(edge.b, LocalEnd)
    edge.send(1)
    edge.down._sent += 1
    edge.b._inbox.put(TruncatedFrame("malformed frame from stage 1"))  # instead of the second
    edge.send(3)
    assert edge.up.receive().step == 1
    with pytest.raises(TruncatedFrame):
        edge.up.receive()
    edge.answer()
    assert edge.targets(3) == [3]
    assert edge.down.in_flight == 0


@pytest.mark.parametrize(("action", "said"), [("drop", "lost"), ("duplicate", "repeated")])
def test_a_forward_frame_out_of_order_is_named(action: str, said: str) -> None:
    a, b = local_channel(64)
    faulty = FaultyEnd(a, [Fault(Kind.STEP, 2, action)])  # type: ignore[arg-type]
    down = Downstream(faulty, stage=1, window=4, clock=Blocked(), timeout_s=SHORT)
    up = Upstream(b, stage=2, clock=Blocked(), timeout_s=SHORT)
    for step in (1, 2, 3):
        down.send(Kind.STEP, step, {})
    good = [1] if action == "drop" else [1, 2]
    assert [up.receive().step for _ in good] == good
    with pytest.raises(OutOfOrder, match=rf"stage 2: STEP of step [23] from stage 1 .* {said}"):
        up.receive()
    if action == "duplicate":
        assert up.receive().step == 3


def test_a_forward_frame_that_was_overtaken_is_named_and_the_edge_lives_on() -> None:
    a, b = local_channel(64)
    faulty = FaultyEnd(a, [Fault(Kind.STEP, 1, "delay", sends=2)])
    down = Downstream(faulty, stage=1, window=4, clock=Blocked(), timeout_s=SHORT)
    up = Upstream(b, stage=2, clock=Blocked(), timeout_s=SHORT)
    for step in (1, 2, 3, 4):  # arrive as 2, 3, 1, 4
        down.send(Kind.STEP, step, {})
    with pytest.raises(OutOfOrder, match="STEP of step 2 from stage 1 has sequence 2, expected was 1"):
        up.receive()
    assert up.receive().step == 3
    with pytest.raises(OutOfOrder, match="STEP of step 1 from stage 1 has sequence 1, expected was 4"):
        up.receive()
    assert up.receive().step == 4


def test_what_is_finished_stays_finished() -> None:
    edge = Edge()
    edge.send(1, 2)
    first, second = edge.up.receive(), edge.up.receive()
    edge.up.finish(second)
    edge.up.finish(first)
    answers = [edge.a.receive(1) for _ in range(2)]
    assert [(f.sequence, f.step, f.done_through, f.stage) for f in answers] == [(1, 2, 2, 2), (2, 1, 2, 2)]


@pytest.mark.parametrize("wait_for", [None, 1])
def test_a_peer_without_restraint_ends_the_link_by_name(wait_for: int | None) -> None:
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


def test_frames_in_the_wrong_direction_are_named() -> None:
    edge = Edge()
    edge.b.send(Frame(Kind.STEP, 4))
    with pytest.raises(OutOfOrder, match="stage 1: STEP of step 4 from stage 2 does not go upstream"):
        edge.targets()
    edge.a.send(Frame(Kind.DONE, 4, sequence=1))
    with pytest.raises(OutOfOrder, match="stage 2: DONE of step 4 from stage 1 does not go downstream"):
        edge.up.receive()


def test_more_done_than_sent_is_named() -> None:
    edge = Edge()
    edge.send(1)
    edge.b.send(Frame(Kind.DONE, 1, done_through=2))
    with pytest.raises(OutOfOrder, match="done through frame 2; only 1 were sent"):
        edge.targets(1)


def test_done_through_never_goes_back() -> None:
    edge = Edge()
    edge.send(1, 2)
    for done in (2, 1):
        edge.b.send(Frame(Kind.DONE, 2, done_through=done))
    assert edge.targets() == []
    assert edge.down.in_flight == 0


def test_targets_that_nobody_takes_are_named_before_they_fill_the_memory() -> None:
    edge = Edge(window=1)
    for step in range(1, 6):
        edge.send(step)
        edge.answer()
    with pytest.raises(FlowControlError, match="stage 1, step 5: 4 targets arrived and were not taken"):
        edge.send(6)


def test_waiting_is_counted() -> None:
    edge = Edge()
    with pytest.raises(PeerTimeout):
        edge.targets(wait_for_sent(edge))
    assert SHORT <= edge.clock.seconds < 100 * SHORT


def wait_for_sent(edge: Edge) -> int:
    edge.send(1)
    return 1
