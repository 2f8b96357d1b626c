"""Exchanges: a frame and its reply while targets of training are in flight."""

import threading

import pytest
import torch

from dni.errors import OutOfOrder, PeerTimeout, TruncatedFrame
from tests.support.comm.edge_in_one_thread import Edge
from tests.support.faulty import Fault
from workers.comm.frame import Kind


def test_a_late_gradient_after_an_exchange_is_not_its_reply() -> None:
    edge = Edge(timeout_s=10)
    assert exchange(edge).item() == 20.0
    edge.send(3)
    edge.up.finish(edge.up.receive(), torch.tensor([20.0]), late=1, more=True)
    assert [(t.step, t.late, t.gradient) for t in edge.down.targets()] == [(3, 1, 20.0)]


def test_the_first_of_two_replies_after_an_exchange_is_a_target() -> None:
    edge = Edge(timeout_s=10)
    assert exchange(edge).item() == 20.0
    edge.send(3)
    frame = edge.up.receive()
    edge.up.finish(frame, torch.tensor([30.0]), more=True)
    edge.up.finish(frame, torch.tensor([20.0]), late=1)
    assert [(t.step, t.late, t.gradient) for t in edge.down.targets()] == [(3, 0, 30.0), (3, 1, 20.0)]


def exchange(edge: Edge, gradient: bool = True) -> torch.Tensor:
    """Exchange a probe after step 2; another thread replies."""
    thread = threading.Thread(target=edge.answer, args=(edge.down.in_flight + 1, gradient))
    thread.start()
    try:
        return edge.down.exchange(Kind.PROBE, 2, {"value": torch.ones(1)})
    finally:
        thread.join()


def test_the_reply_to_an_exchange_is_not_a_target_and_targets_are_not_replies() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 1, "duplicate")], timeout_s=10)
    edge.send(1, 2)
    assert exchange(edge).item() == 20.0
    assert edge.down.in_flight == 0
    assert edge.targets(2) == [1, 1, 2]
    edge.send(3)
    assert exchange(edge).item() == 20.0
    assert edge.targets() == [3]


def test_a_duplicate_reply_is_not_a_target() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 2, "duplicate")], timeout_s=10)
    assert exchange(edge).item() == 20.0
    edge.send(3)
    edge.answer()
    assert edge.targets() == [3]


def test_a_target_that_arrives_after_the_exchange_is_a_target() -> None:
    edge = Edge(faults=[Fault(Kind.GRADIENT, 1, "delay", sends=2)], timeout_s=10)
    edge.send(1)
    assert exchange(edge).item() == 20.0
    assert edge.targets() == []
    edge.send(3)
    edge.answer()
    assert edge.targets() == [3, 1]


def test_an_exchange_without_a_gradient_is_an_error() -> None:
    edge = Edge(timeout_s=10)
    with pytest.raises(OutOfOrder, match="stage 1: PROBE of step 2 got a reply without a gradient"):
        exchange(edge, gradient=False)
    damaged = Edge()
    damaged.damage()
    with pytest.raises(TruncatedFrame):
        damaged.down.exchange(Kind.PROBE, 2, {"value": torch.ones(1)})
    with pytest.raises(PeerTimeout, match="stage 1, waiting for the reply to PROBE of step 2 from stage 2"):
        Edge().down.exchange(Kind.PROBE, 2, {"value": torch.ones(1)})
