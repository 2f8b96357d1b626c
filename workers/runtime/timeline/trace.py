"""Write the timelines of all stages as one trace, in the Trace Event Format that Perfetto and Chrome read.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workers.runtime.timeline.clocks import shifts, travelled
from workers.runtime.timeline.slices import WAIT, Slice
from workers.runtime.timeline.stage_file import StageTimes, path_of, read_stage
from workers.system.errors import about

#: Name of the trace, in the run's folder.
TRACE = "trace.json"

Event = dict[str, Any]

#: Passes of a pipeline whose results go on to another part: name, and the distance to that part.
ONWARD = {"forward": 1, "backward": -1, "backward input": -1}


class Moment(NamedTuple):
    """A time of a stage, in seconds of the common clock."""

    stage: int
    time: float


class Arrow(NamedTuple):
    """A frame's way from one slice to another."""

    name: str
    start: Moment
    end: Moment
    bytes: int = 0
    wire: tuple[float, float] | None = None  #: when it was on its way, on the common clock


def write_trace(run_dir: Path, stages: int) -> Path | None:
    """Join the stages' files into RUN_DIR/trace.json, remove them, and return its path; None: no stage left one."""
    found = [each for k in range(stages) if (each := read_stage(run_dir, k)) is not None]
    path = run_dir / TRACE
    with about(path):
        if traced := [each for each in found if each.slices]:
            content = {"traceEvents": events(traced, stages), "displayTimeUnit": "ms"}
            path.write_text(json.dumps(content), encoding="utf-8")
        for each in found:
            path_of(run_dir, each.stage).unlink()
        if found:
            path_of(run_dir, 0).parent.rmdir()
    return path if traced else None


def events(found: Sequence[StageTimes], stages: int) -> list[Event]:
    """Return the events of the trace; it begins at 0 with the first slice of any stage."""
    added = shifts(found)
    slices = {each.stage: [_moved(one, added[each.stage]) for one in each.slices] for each in found}
    zero = min(one.start for all_of_one in slices.values() for one in all_of_one)
    arrows = [*_frames(found, added), *_passes(slices, stages)]
    kept = [arrow for arrow in arrows if _visible(slices, arrow)]
    shown = [_slice(stage, one, zero) for stage, all_of_one in slices.items() for one in all_of_one]
    ways = [event for number, arrow in enumerate(kept, 1) for event in _arrow(number, arrow, zero)]
    return [*(event for each in found for event in _names(each.stage)), *shown, *ways]


def _frames(found: Sequence[StageTimes], added: Mapping[int, float]) -> Iterator[Arrow]:
    for sender, receiver, here, there in travelled(found):
        plus, more = added[sender.stage], added[receiver.stage]
        left, came = here.end + plus, there.start + more
        begin, end = Moment(sender.stage, here.start + plus), Moment(receiver.stage, there.end + more)
        yield Arrow(f"{here.kind} {here.step}", begin, end, here.bytes, (left, max(left, came)))


def _passes(slices: Mapping[int, Sequence[Slice]], stages: int) -> Iterator[Arrow]:
    """Yield the ways of a pipeline's microbatches: from pass to pass, since its links are torch's own."""
    passes = [
        ((ONWARD[one.name], one.step, one.details["part"], one.details["microbatch"]), stage, one)
        for stage, all_of_one in slices.items()
        for one in all_of_one
        if one.name in ONWARD and "part" in one.details
    ]
    began = {key: one for key, _, one in reversed(passes)}  # a pass may be in several slices
    ended = {key: (stage, one) for key, stage, one in passes}
    for (way, step, part, microbatch), (stage, one) in ended.items():
        after = began.get((way, step, part + way, microbatch))
        if after is not None and (part + way) % stages != stage:
            name = f"{'activation' if way > 0 else 'gradient'} {step}, microbatch {microbatch}"
            yield Arrow(name, Moment(stage, one.end), Moment((part + way) % stages, after.start))


def _moved(one: Slice, seconds: float) -> Slice:
    return one._replace(start=one.start + seconds, end=one.end + seconds)


def _visible(slices: Mapping[int, Sequence[Slice]], arrow: Arrow) -> bool:
    """Return whether a slice is there at the start of an arrow, and one at its end or after it."""
    sender, receiver = slices[arrow.start.stage], slices[arrow.end.stage]
    return sender[0].start <= arrow.start.time <= sender[-1].end and arrow.end.time <= receiver[-1].end


def _names(stage: int) -> list[Event]:
    common: Event = {"ph": "M", "pid": stage + 1, "tid": 0}
    return [
        {**common, "name": "process_name", "args": {"name": f"stage {stage}"}},
        {**common, "name": "process_sort_index", "args": {"sort_index": stage}},
        {**common, "name": "thread_name", "args": {"name": "work and waits"}},
    ]


def _slice(stage: int, one: Slice, zero: float) -> Event:
    begin = _micro(one.start, zero)
    return {
        "name": one.name, "cat": "wait" if one.name.startswith(WAIT) else "work", "ph": "X",
        "pid": stage + 1, "tid": 0, "ts": begin, "dur": round(_micro(one.end, zero) - begin, 3),
        "args": {"step": one.step, **one.details},
    }  # fmt: skip


def _arrow(number: int, arrow: Arrow, zero: float) -> Iterator[Event]:
    args = {"to": f"stage {arrow.end.stage}", "bytes": arrow.bytes}
    if arrow.wire is not None:
        common = {"name": arrow.name, "cat": "wire", "id": number, "pid": arrow.start.stage + 1, "tid": 0}
        yield {**common, "ph": "b", "ts": _micro(arrow.wire[0], zero), "args": args}
        yield {**common, "ph": "e", "ts": _micro(arrow.wire[1], zero)}
    for phase, moment in (("s", arrow.start), ("f", arrow.end)):
        yield {
            "name": "frame", "cat": "frame", "ph": phase, "id": number, "pid": moment.stage + 1, "tid": 0,
            "ts": _micro(moment.time, zero), "args": {"frame": arrow.name},
        }  # fmt: skip


def _micro(moment: float, zero: float) -> float:
    return round((moment - zero) * 1e6, 3)
