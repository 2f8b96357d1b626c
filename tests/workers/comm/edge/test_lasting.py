"""Edges whose next or previous stage is lost, and started again."""

from __future__ import annotations

import pytest

from dni.errors import PeerTimeout, WorkerLost
from tests.support.comm.edge_in_one_thread import SHORT, checked
from tests.support.comm.lasting_edge import LastingEdge
from workers.comm.frame import Kind
from workers.comm.lasting import downstream, upstream


def test_steps_are_dropped_and_counted_until_the_next_stage_is_back() -> None:
    edge = LastingEdge()
    edge.send(1, 2, 3)
    edge.answer()
    edge.lose_stage_2()
    assert checked(edge.down.targets()) == [1]  # arrived before
    assert edge.down.in_flight == 0
    edge.send(4, 5)
    edge.restart_stage_2(newest=1)
    edge.send(6)
    frame = edge.answer()
    assert (frame.step, frame.sequence) == (6, 1)
    assert checked(edge.down.targets()) == [6]
    assert edge.down.figures() == {"skipped_steps": 4}  # 2 and 3 were in flight
    assert (edge.gaps, edge.up.figures(), edge.first) == ([4], {"missed_steps": 4}, [])


def test_a_new_link_begins_after_a_dropped_step_at_least() -> None:
    edge = LastingEdge()
    edge.send(1)
    edge.lose_stage_2()
    edge.restart_stage_2(newest=0)
    edge.send(2, 3)
    assert edge.answer().step == 3
    assert edge.gaps == [2]


def test_a_stage_that_waits_for_credit_goes_on_without_the_lost_one() -> None:
    edge = LastingEdge(window=2)
    edge.send(1, 2)
    edge.lose_stage_2()
    edge.send(3, 4, 5)
    assert (list(edge.down.drain()), edge.down.skipped) == ([], 5)


def test_sequences_begin_anew_after_a_gap_only() -> None:
    edge = LastingEdge()
    edge.send(1)
    assert edge.answer().tensors["reset"].tolist() == [False, True]
    edge.lose_stage_2()
    edge.send(2)
    edge.restart_stage_2(newest=1)
    edge.send(3, 4)
    assert [edge.answer().tensors["reset"].tolist() for _ in range(2)] == [[True, True], [False, True]]


def test_frames_of_other_kinds_are_passed_over_and_the_end_waits_with_the_checkpoint_before_it() -> None:
    edge = LastingEdge()
    edge.send(1)
    edge.lose_stage_2()
    edge.send(2)
    edge.send(2, kind=Kind.CHECKPOINT)  # not the last one
    edge.send(3)
    edge.send(3, kind=Kind.EVALUATE)
    edge.send(3, kind=Kind.CHECKPOINT)
    edge.restart_stage_2(newest=0)
    edge.send(3, kind=Kind.END)
    frames = [edge.answer() for _ in range(2)]
    assert [(frame.kind, frame.step, frame.sequence) for frame in frames] == [
        (Kind.CHECKPOINT, 3, 1), (Kind.END, 3, 2),
    ]  # fmt: skip
    assert list(edge.down.drain()) == []
    assert edge.gaps == [3]


def test_the_end_is_an_error_if_the_next_stage_is_lost_with_nothing_dropped() -> None:
    edge = LastingEdge()
    edge.send(1)
    edge.lose_stage_2()
    assert list(edge.down.targets()) == []
    with pytest.raises(WorkerLost, match="is gone"):
        edge.send(1, kind=Kind.END)


def test_a_next_stage_that_does_not_come_back_is_an_error() -> None:
    edge = LastingEdge(timeout_s=SHORT)
    edge.send(1)
    edge.lose_stage_2()
    edge.send(2)
    with pytest.raises(WorkerLost, match="is gone"):
        edge.send(2, kind=Kind.END)  # waits for the longest time


def test_a_loss_that_nobody_announces_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downstream, "NOTICE_S", 0.0)
    monkeypatch.setattr(upstream, "NOTICE_S", 0.001)
    edge = LastingEdge()
    edge.send(1)
    edge.right.close()
    edge.send(2)
    with pytest.raises(WorkerLost, match="closed the link"):
        edge.send(3)
    edge.left.close()
    edge.up.receive()
    with pytest.raises(WorkerLost, match="closed"):
        edge.up.receive()


def test_a_silent_next_stage_is_an_error() -> None:
    edge = LastingEdge(window=1, timeout_s=SHORT)
    edge.send(1)
    with pytest.raises(PeerTimeout):
        edge.send(2)


def test_a_stage_waits_for_the_previous_one_and_numbers_begin_anew() -> None:
    edge = LastingEdge()
    edge.send(1, 2)
    frame = edge.up.receive()
    edge.lose_stage_1()
    edge.up.finish(frame)  # nobody needs the reply
    assert edge.up.receive().step == 2  # had arrived
    edge.restart_stage_1()
    edge.send(5)
    frame = edge.answer()
    assert (frame.step, frame.sequence) == (5, 1)
    assert checked(edge.down.targets()) == [5]
    assert (edge.gaps, edge.first) == ([2], [1])


def test_a_previous_stage_that_does_not_come_back_is_an_error() -> None:
    edge = LastingEdge(timeout_s=SHORT)
    edge.send(1)
    edge.answer()
    edge.lose_stage_1()
    with pytest.raises(WorkerLost, match="is gone"):
        edge.up.receive()


def test_a_link_cannot_be_used_before_it_is_offered() -> None:
    edge = LastingEdge()
    edge._before()
    edge.send(1)
    assert edge.down.skipped == 1
    assert edge.left.pending() == 0
