"""Slices of a timeline, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workers.comm.frame import Frame, Kind
from workers.runtime.timeline import slices
from workers.runtime.timeline.clocks import shifts
from workers.runtime.timeline.slices import FrameNote, Timeline
from workers.runtime.timeline.stage_file import StageTimes
from workers.runtime.timeline.trace import events


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Set its only element to the time that the timeline reads."""
    now = [100.0]
    monkeypatch.setattr(slices.time, "monotonic", lambda: now[0])
    return now  # type: ignore[return-value]


def step(number: int) -> Frame:
    return Frame(Kind.STEP, number)


def test_a_slice_inside_another_one_splits_it(clock: list[float]) -> None:
    """Outer from 100 to 110, inner from 103 to 107: outer 3 + 3 s, inner 4 s, in a span of 12 s."""
    timeline = Timeline(0, 1, 1)
    timeline.at(step(1))
    with timeline.slice("outer"):
        clock[0] = 103
        with timeline.slice("wait for data"):
            clock[0] = 107
        clock[0] = 110
    clock[0] = 112
    timeline.close()
    assert [each[:4] for each in timeline.slices] == [
        ("outer", 100, 103, 1), ("wait for data", 103, 107, 1), ("outer", 107, 110, 1),
    ]  # fmt: skip
    assert timeline.figures() == {
        "bubble": pytest.approx(4 / 12),
        "timeline": {"steps": 1, "span_s": 12, "seconds": {"outer": 6, "wait for data": 4}},
    }


def test_it_keeps_the_slices_of_its_steps_alone(clock: list[float]) -> None:
    timeline = Timeline(0, 2, 3)
    for number in range(1, 6):
        timeline.at(step(number))
        with timeline.slice("forward"):
            clock[0] += 1
    assert [each.step for each in timeline.slices] == [2, 3]
    assert timeline.figures()["timeline"] == {"steps": 2, "span_s": 2, "seconds": {"forward": 2}}


def test_it_ends_when_it_is_full(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "MOST", 3)
    timeline = Timeline(0, 1, 9)
    timeline.at(step(1))
    for _ in range(5):
        with timeline.slice("forward"):
            clock[0] += 1
    assert len(timeline.slices) == 3
    assert timeline.figures()["timeline"]["span_s"] == 3


def note(peer: int, start: float, end: float) -> FrameNote:
    return FrameNote(peer, 1, "STEP", 1, start, end, 8)


def times(stage: int, clock: str, wall_offset: float, sent: FrameNote, received: FrameNote) -> StageTimes:
    return StageTimes(stage, clock, wall_offset, [], [sent], [received])


def test_frames_mend_the_wall_clocks_of_two_machines() -> None:
    """Stage 1's clock is 1000 s behind, and its wall clock 0.5 s wrong. Both ways take 0.2 s.

    On the first clock: sent at 10, here at 10.2; sent back at 11, here at 11.2.
    """
    first = times(0, "a", 5000.0, note(1, 9.9, 10.0), note(1, 11.2, 11.3))
    second = times(1, "b", 6000.5, note(0, -989.1, -989.0), note(0, -989.8, -989.7))
    assert shifts([first, second]) == pytest.approx({0: 0.0, 1: 1000.0})


def test_stages_with_one_clock_stay_as_they_are() -> None:
    one, other = (times(k, "a", 5000.0 + k, note(1 - k, 1, 2), note(1 - k, 3, 4)) for k in range(2))
    assert shifts([one, other]) == {0: 0.0, 1: 0.0}


def test_a_frame_that_ends_outside_of_the_slices_has_no_arrow() -> None:
    def stage(k: int, taken: float) -> StageTimes:
        own = [slices.Slice("forward", 0.0, 5.0, 1, {})]
        return StageTimes(k, "a", 0.0, own, [note(1 - k, 1.0, 2.0)], [note(1 - k, 3.0, taken)])

    found = events([stage(0, 4.0), stage(1, 6.0)], 2)
    assert [(e["ph"], e["pid"]) for e in found if e["ph"] in "sf"] == [("s", 2), ("f", 1)]
