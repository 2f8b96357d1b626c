"""Malformed frames: a missing target, or an error in its place; the edge stays usable."""

import logging

import pytest

from dni.errors import TruncatedFrame
from tests.support.comm.edge_in_one_thread import Edge
from workers.comm.transports.local import LocalEnd


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
    edge.send(3, 4)  # receives all three while it waits for credit
    assert edge.targets(1) == [1]
    with pytest.raises(TruncatedFrame):
        edge.targets(2)
    assert edge.targets(2) == [2]


def test_a_malformed_gradient_is_an_error_even_if_no_frame_follows() -> None:
    edge = Edge(timeout_s=30)
    edge.send(1)
    edge.damage()
    with pytest.raises(TruncatedFrame):
        edge.targets(1)


def test_a_malformed_gradient_does_not_use_credit() -> None:
    edge = Edge(window=1)
    edge.send(1)
    edge.damage()
    edge.answer()
    edge.send(2)
    assert edge.down.in_flight == 1


def test_a_malformed_forward_frame_is_raised_in_its_place_and_the_edge_stays_usable() -> None:
    edge = Edge()
    assert isinstance(edge.b, LocalEnd)
    edge.send(1)
    edge.down._sent += 1
    edge.b._inbox.put(TruncatedFrame("malformed frame from stage 1"))  # in place of the second frame
    edge.send(3)
    assert edge.up.receive().step == 1
    with pytest.raises(TruncatedFrame):
        edge.up.receive()
    edge.answer()
    assert edge.targets(3) == [3]
    assert edge.down.in_flight == 0
