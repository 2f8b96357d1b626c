"""A lost neighbour: targets received before are used, and the loss is reported."""

import threading

import pytest
import torch

from dni.errors import WorkerLost
from tests.support.comm.edge_in_one_thread import Edge
from workers.comm.frame import Frame, Kind


def test_a_next_stage_that_ended_normally_is_lost_only_when_a_frame_is_sent() -> None:
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
        targets = edge.down.targets(wait_for)
        if wait_for is not None:
            assert next(targets)[0] == 1
        with pytest.raises(WorkerLost, match=r"stage 1, .* stage 2"):
            next(targets)


def test_a_dead_peer_is_reported_while_waiting_for_credit_and_no_target_is_lost() -> None:
    edge = Edge(window=2)
    edge.send(1, 2)
    edge.b.send(Frame(Kind.GRADIENT, 1, done_through=0, tensors={"gradient": torch.tensor([10.0])}))
    edge.b.close()
    with pytest.raises(WorkerLost, match="stage 1, waiting for credit for STEP of step 3 from stage 2"):
        edge.send(3)
    targets = edge.down.targets()
    assert next(targets)[0] == 1
    with pytest.raises(WorkerLost):
        next(targets)


def test_a_dead_peer_wakes_a_waiting_stage() -> None:
    edge = Edge(window=1, timeout_s=30)
    edge.send(1)
    threading.Timer(0.05, edge.b.close).start()
    with pytest.raises(WorkerLost, match="closed"):
        edge.send(2)
    assert edge.clock.seconds > 0
