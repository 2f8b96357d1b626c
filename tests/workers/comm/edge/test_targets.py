"""Targets: in order, awaited or not, late, in bursts, duplicated or lost."""

import threading

import pytest
import torch

from dni.errors import PeerTimeout
from tests.support.comm.edge_in_one_thread import Edge, checked
from tests.support.faulty import Fault
from workers.comm.edge import Loss, Target
from workers.comm.frame import Kind


def test_targets_without_a_step_returns_the_arrived_ones() -> None:
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


def test_waiting_for_a_step_keeps_newer_targets_for_later() -> None:
    edge = Edge()
    edge.send(1, 2, 3)
    edge.answer(3)
    assert edge.targets(1) == [1]
    assert edge.targets(1) == []
    assert edge.targets(3) == [2, 3]


def test_waiting_for_a_step_blocks_until_its_target_arrives() -> None:
    edge = Edge(timeout_s=10)
    edge.send(1, 2)
    thread = threading.Thread(target=edge.answer, args=(2,))
    thread.start()
    assert edge.targets(2) == [1, 2]
    thread.join()


def test_a_step_that_was_not_sent_is_not_awaited() -> None:
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


def test_loss_reports_arrive_without_a_gradient() -> None:
    edge = Edge()
    edge.send(1, 2, 3)
    for losses in ([Loss(1, 0.5, 7)], [], [Loss(2, 1.5, 7)]):
        edge.up.finish(edge.up.receive(), losses=losses)
    assert list(edge.down.targets(1)) == [Target(1, None, (Loss(1, 0.5, 7),))]
    assert list(edge.down.targets(3)) == [Target(3, None, (Loss(2, 1.5, 7),))]
    assert edge.down.in_flight == 0


def test_a_late_gradient_has_its_own_step_and_only_the_last_reply_returns_credit() -> None:
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


def test_a_lost_target_is_given_up_when_a_later_reply_arrives() -> None:
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


def test_a_timeout_is_raised_after_the_received_targets() -> None:
    edge = Edge()
    edge.send(1, 2)
    edge.answer()
    targets = edge.down.targets(2)
    assert next(targets)[0] == 1
    with pytest.raises(PeerTimeout):
        next(targets)


def test_a_duplicate_target_is_yielded_twice_and_returns_credit_once() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 1, "duplicate")])
    edge.send(1, 2)
    edge.answer(2)
    assert edge.targets() == [1, 1, 2]
    assert edge.down.in_flight == 0


def test_a_reordered_target_is_late_and_not_lost() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 1, "delay", sends=1)])
    edge.send(1, 2)
    edge.answer(2)
    assert edge.targets(1) == []  # the reply to step 2 says that step 1 is finished
    assert edge.targets(2) == [2]
    assert edge.targets() == [1]
    assert edge.down.in_flight == 0


def test_a_fixed_lag_gives_the_same_targets_at_every_step() -> None:
    edge = Edge(window=4, timeout_s=10)
    thread = threading.Thread(target=edge.answer, args=(50,))
    thread.start()
    for step in range(1, 51):
        edge.send(step)
        assert edge.targets(step - 3) == ([step - 3] if step > 3 else [])
    assert checked(edge.down.drain()) == [48, 49, 50]
    thread.join()
