"""FaultyEnd injects faults at the requested frames."""

from __future__ import annotations

import torch

from tests.support.faulty import Fault, FaultyEnd
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.local import local_channel


def step(number: int) -> Frame:
    return Frame(Kind.STEP, number, tensors={"value": torch.full((3,), float(number))})


def received(end: ChannelEnd, count: int) -> list[int]:
    return [end.receive(10).step for _ in range(count)]


def test_faults_drop_duplicate_and_delay_the_chosen_frames() -> None:
    a, b = local_channel(64)
    faulty = FaultyEnd(
        a, [Fault(Kind.STEP, 1, "drop"), Fault(Kind.STEP, 2, "duplicate"), Fault(Kind.STEP, 3, "delay", sends=2)]
    )
    for number in range(7):
        faulty.send(step(number))
    faulty.close()
    assert received(b, 7) == [0, 2, 2, 4, 5, 3, 6]


def test_a_delayed_frame_is_sent_at_close_at_the_latest() -> None:
    a, b = local_channel(64)
    faulty = FaultyEnd(a, [Fault(Kind.STEP, 1, "delay", sends=9)])
    held = step(1)
    faulty.send(held)
    held.tensors["value"].zero_()
    faulty.send(step(2))
    faulty.close()
    assert b.receive(10).step == 2
    assert b.receive(10).tensors["value"].tolist() == [1, 1, 1]
