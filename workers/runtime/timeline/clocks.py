"""Bring the clocks of several machines together, by the frames between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workers.runtime.timeline.slices import FrameNote
from workers.runtime.timeline.stage_file import StageTimes

#: A frame at both of its ends: sender, receiver, and the notes of the two.
Travelled = tuple[StageTimes, StageTimes, FrameNote, FrameNote]


def travelled(stages: Sequence[StageTimes]) -> Iterator[Travelled]:
    """Yield every frame that both of its ends have noted."""
    by_index = {each.stage: each for each in stages}
    received = {(note.peer, each.stage, note.sequence): note for each in stages for note in each.received}
    for sender in stages:
        for note in sender.sent:
            other = received.get((sender.stage, note.peer, note.sequence))
            if other is not None:
                yield sender, by_index[note.peer], note, other


def shifts(stages: Sequence[StageTimes]) -> dict[int, float]:
    """Return the seconds to add to the times of every stage, so that all are on the clock of the first.

    Stages that share a clock get the same. Between machines the wall clocks give a first guess. The frames between two
    stages mend it: the fastest frame each way is taken to have travelled for the same time (as NTP takes it).
    """
    found: dict[int, float] = {}
    frames = list(travelled(stages))
    for before, each in zip([None, *stages], stages, strict=False):
        if before is None:
            found[each.stage] = 0.0
        elif before.clock == each.clock:
            found[each.stage] = found[before.stage]
        else:
            guess = found[before.stage] + each.wall_offset - before.wall_offset
            down = _fastest(frames, before, each, guess - found[before.stage])
            up = _fastest(frames, each, before, found[before.stage] - guess)
            found[each.stage] = guess if down is None or up is None else guess - (down - up) / 2
    return found


def _fastest(frames: Sequence[Travelled], sender: StageTimes, receiver: StageTimes, shift: float) -> float | None:
    """Return the shortest time on the way, if the receiver's clock were `shift` seconds behind the sender's."""
    way = sender.stage, receiver.stage
    times = [there.start + shift - here.end for a, b, here, there in frames if (a.stage, b.stage) == way]
    return min(times, default=None)
