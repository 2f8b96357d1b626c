"""Sequence numbers: lost, repeated and reordered frames and frames of the wrong direction are errors."""

import pytest

from dni.errors import OutOfOrder
from tests.support.comm.edge_in_one_thread import SHORT, Edge
from tests.support.faulty import Fault, FaultyEnd
from workers.comm.downstream import Downstream
from workers.comm.edge import WaitTime
from workers.comm.frame import Frame, Kind
from workers.comm.transports.local import local_channel
from workers.comm.upstream import Upstream


def test_frames_of_all_kinds_are_numbered_from_one() -> None:
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


@pytest.mark.parametrize(("action", "cause"), [("drop", "lost"), ("duplicate", "repeated")])
def test_a_forward_frame_out_of_order_is_an_error(action: str, cause: str) -> None:
    a, b = local_channel(64)
    faulty = FaultyEnd(a, [Fault(Kind.STEP, 2, action)])  # type: ignore[arg-type]
    down = Downstream(faulty, stage=1, window=4, clock=WaitTime(), timeout_s=SHORT)
    up = Upstream(b, stage=2, clock=WaitTime(), timeout_s=SHORT)
    for step in (1, 2, 3):
        down.send(Kind.STEP, step, {})
    valid = [1] if action == "drop" else [1, 2]
    assert [up.receive().step for _ in valid] == valid
    with pytest.raises(OutOfOrder, match=rf"stage 2: STEP of step [23] from stage 1 .* {cause}"):
        up.receive()
    if action == "duplicate":
        assert up.receive().step == 3


def test_a_reordered_forward_frame_is_an_error_and_the_edge_stays_usable() -> None:
    a, b = local_channel(64)
    faulty = FaultyEnd(a, [Fault(Kind.STEP, 1, "delay", sends=2)])
    down = Downstream(faulty, stage=1, window=4, clock=WaitTime(), timeout_s=SHORT)
    up = Upstream(b, stage=2, clock=WaitTime(), timeout_s=SHORT)
    for step in (1, 2, 3, 4):  # arrive as 2, 3, 1, 4
        down.send(Kind.STEP, step, {})
    with pytest.raises(OutOfOrder, match="STEP of step 2 from stage 1 has sequence 2, expected 1"):
        up.receive()
    assert up.receive().step == 3
    with pytest.raises(OutOfOrder, match="STEP of step 1 from stage 1 has sequence 1, expected 4"):
        up.receive()
    assert up.receive().step == 4


def test_done_through_of_replies_never_decreases() -> None:
    edge = Edge()
    edge.send(1, 2)
    first, second = edge.up.receive(), edge.up.receive()
    edge.up.finish(second)
    edge.up.finish(first)
    answers = [edge.a.receive(1) for _ in range(2)]
    assert [(f.sequence, f.step, f.done_through, f.stage) for f in answers] == [(1, 2, 2, 2), (2, 1, 2, 2)]


def test_frames_in_the_wrong_direction_are_errors() -> None:
    edge = Edge()
    edge.b.send(Frame(Kind.STEP, 4))
    with pytest.raises(
        OutOfOrder, match="stage 1: STEP of step 4 from stage 2 does not belong to the upstream direction"
    ):
        edge.targets()
    edge.a.send(Frame(Kind.DONE, 4, sequence=1))
    with pytest.raises(
        OutOfOrder, match="stage 2: DONE of step 4 from stage 1 does not belong to the downstream direction"
    ):
        edge.up.receive()
