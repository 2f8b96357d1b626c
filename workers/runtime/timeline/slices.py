"""The timeline of one stage: what its thread did, and when, in the steps that are traced."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from workers.comm.edge import NOTHING
from workers.comm.frame import Frame

#: Slices in which a stage waits for another one begin with this.
WAIT = "wait for"

#: Most slices of a stage, and most frames each way; the timeline ends there.
MOST = 200_000


class Slice(NamedTuple):
    """A time in which a stage did one thing; times in seconds of `time.monotonic`."""

    name: str
    start: float
    end: float
    step: int  #: of the newest frame that the stage had taken
    details: Mapping[str, int]  #: of a pipeline: "part" and "microbatch"


class FrameNote(NamedTuple):
    """A frame at one of its ends; times in seconds of `time.monotonic`."""

    peer: int  #: the stage at the other end
    sequence: int
    kind: str
    step: int
    start: float  #: sender: its encoding began; receiver: it was here, and could be taken
    end: float  #: sender: it was on its way; receiver: it was taken
    bytes: int


class Timeline:
    """Slices and frames of stage `index` from step `first` to step `last`. One thread calls it.

    Slices never overlap: a slice inside another one ends the outer one's first part and begins its second. The time
    between slices is the program's own.
    """

    def __init__(self, index: int, first: int, last: int) -> None:
        self.index, self.first, self.last = index, first, last
        self.slices: list[Slice] = []
        self.sent: list[FrameNote] = []
        self.received: list[FrameNote] = []
        self.started: float | None = None  #: when the first traced step began
        self.ended: float | None = None
        self.steps: set[int] = set()
        self._step = 0
        self._open: list[tuple[str, float, Mapping[str, int]]] = []

    @property
    def on(self) -> bool:
        """Whether slices are kept now."""
        return self.started is not None and self.ended is None

    def at(self, frame: Frame) -> None:
        """Begin or end the timeline at a frame that the stage has just taken, outside of any slice."""
        self._step = frame.step
        if self.started is None and self.first <= frame.step <= self.last:
            self.started = time.monotonic()
        elif self.on and frame.step > self.last:
            self.close()
        if self.on:
            self.steps.add(frame.step)

    def close(self) -> None:
        """End the timeline; later slices are not kept."""
        if self.on:
            self.ended = time.monotonic()

    @contextmanager
    def slice(self, name: str, details: Mapping[str, int] = NOTHING) -> Iterator[None]:
        """Keep the time inside the block, without that of slices in it, as slices of this name."""
        now = time.monotonic()
        if self._open:
            self._keep(*self._open[-1], now)
        self._open.append((name, now, details))
        try:
            yield
        finally:
            now = time.monotonic()
            self._keep(*self._open.pop(), now)
            if self._open:
                outer, _, more = self._open[-1]
                self._open[-1] = outer, now, more

    def traces(self, frame: Frame) -> bool:
        """Return whether to note a frame: both of its ends must, so its own step decides, not the stage's."""
        return self.first <= frame.step <= self.last and len(self.sent) + len(self.received) < MOST

    def figures(self) -> dict[str, Any]:
        """Return the sums for the summary: `bubble`, the share of the traced time spent waiting for other stages, and
        `timeline`, with the traced steps and seconds, and the seconds of each name. Empty if no step was traced.
        """
        if self.started is None or self.ended is None or self.ended <= self.started:
            return {}
        span, sums = self.ended - self.started, dict[str, float]()
        for each in self.slices:
            sums[each.name] = sums.get(each.name, 0.0) + each.end - each.start
        waited = sum(seconds for name, seconds in sums.items() if name.startswith(WAIT))
        seconds = {name: round(total, 6) for name, total in sums.items()}
        return {"bubble": waited / span, "timeline": {"steps": len(self.steps), "span_s": span, "seconds": seconds}}

    def _keep(self, name: str, start: float, details: Mapping[str, int], end: float) -> None:
        if not self.on:
            return
        self.slices.append(Slice(name, start, end, self._step, details))
        if len(self.slices) >= MOST:
            self.close()
