"""The engine of the simulation: stages as programs with their own clocks, joined by links with delays.

A program is a generator. It works (`Stage.work`), sends (`Stage.send`) and takes frames (`Stage.take`). It yields only
where it depends on others: a `Link` to wait until a frame is on it, or None to wait until all other clocks have reached
its own, after which it knows all arrivals up to then. The stage with the earliest clock runs next.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import count

from workers.simulation.scenario import Scenario


class Link:
    """One direction between two stages: frames in order, one at a time on the wire, each `delay_s` later.

    `frames` holds arrival time and note of every frame that its reader has not taken, in transit or arrived.
    """

    __slots__ = ("_delay", "_free", "_per_byte", "_wake", "bytes", "frames", "reader")

    def __init__(self, scenario: Scenario, wake: Callable[[float, int], None]) -> None:
        self._delay, self._wake = scenario.delay_s, wake
        self._per_byte = 1 / scenario.bytes_per_s if scenario.bytes_per_s else 0.0
        self._free = 0.0
        self.frames: deque[tuple[float, int]] = deque()  # arrival, note
        self.reader: int | None = None  # the stage that waits for a frame
        self.bytes = 0.0

    def send(self, now: float, size: float, note: int = 0) -> None:
        """Put a frame on the wire once the wire is free."""
        self._free = max(now, self._free) + size * self._per_byte
        arrival = self._free + self._delay
        self.frames.append((arrival, note))
        self.bytes += size
        if self.reader is not None:
            reader, self.reader = self.reader, None
            self._wake(arrival, reader)


class Outages:
    """Intervals in which a machine is down, in order, generated on demand."""

    def __init__(self, intervals: Iterable[tuple[float, float]]) -> None:
        self._more = iter(intervals)
        self._starts: list[float] = []
        self._ends: list[float] = []

    def through(self, start: float, seconds: float) -> float:
        """Return when work of `seconds` that begins at `start` is done, if it pauses while the machine is down."""
        self._look(start)
        place = bisect_right(self._starts, start) - 1
        now = max(start, self._ends[place]) if place >= 0 else start
        while True:
            place += 1
            self._look(now + seconds)
            if place >= len(self._starts) or self._starts[place] >= now + seconds:
                return now + seconds
            seconds -= self._starts[place] - now
            now = self._ends[place]

    def before(self, time: float) -> int:
        """Return the number of outages that began by then."""
        self._look(time)
        return bisect_right(self._starts, time)

    def _look(self, time: float) -> None:
        while not self._starts or self._starts[-1] <= time:
            begin, end = next(self._more, (math.inf, math.inf))
            self._starts.append(begin)
            self._ends.append(end)


def failures(rate: float, recovery: float, name: str) -> Iterable[tuple[float, float]]:
    """Yield outages of a machine that fails `rate` times a second while up, and recovers after `recovery` seconds."""
    draw, time = random.Random(name), 0.0
    for _ in count():
        time += draw.expovariate(rate)
        yield time, time + recovery
        time += recovery


class Stage:
    """A stage's clock and counters."""

    def __init__(self, index: int, scenario: Scenario, outages: Outages | None) -> None:
        self.index, self.now, self.busy = index, 0.0, 0.0
        self._outages, self._jitter, self._overhead = outages, scenario.jitter, scenario.overhead_s
        self._draw = random.Random(f"{scenario.seed} jitter {index}")
        self.holding, self.held, self.versions = (
            0,
            0,
            1,
        )  # activations kept now; most activations and most versions of weights
        self.late, self.latest, self.used = 0, 0, 0  # sum and maximum of the staleness, number of gradients
        self.marks: list[tuple[float, float]] = []  # (now, busy) at the begin and end of the measured part

    def work(self, seconds: float) -> None:
        """Advance the clock by `seconds` of work."""
        if self._jitter and seconds:
            seconds *= math.exp(self._jitter * self._draw.gauss(0, 1) - self._jitter**2 / 2)
        self.busy += seconds
        self.now = self.now + seconds if self._outages is None else self._outages.through(self.now, seconds)

    def take(self, link: Link) -> int:
        """Take the next frame, which is on the link: wait for its arrival and receive it."""
        arrival, note = link.frames.popleft()
        self.now = max(self.now, arrival)
        self.work(self._overhead)
        return note

    def send(self, link: Link, size: float, note: int = 0) -> None:
        """Spend the overhead of sending, then send a frame."""
        self.work(self._overhead)
        link.send(self.now, size, note)

    def hold(self, more: int) -> None:
        """Add `more` kept activations; a negative number releases some."""
        self.holding += more
        self.held = max(self.held, self.holding)

    def use(self, late: int) -> None:
        """Count a gradient that was used `late` steps after its own."""
        self.late, self.latest, self.used = self.late + late, max(self.latest, late), self.used + 1


#: Yields a link to wait for a frame on it, or None to wait until all other clocks have reached its own.
Program = Generator[Link | None, None, None]


class Network:
    """K stages and the links between them: `down[k]` leads from k to k+1, `up[k]` back; the last ones close the ring.

    Args:
        outages: one per stage; empty: no failures
    """

    def __init__(self, scenario: Scenario, outages: Sequence[Outages] = ()) -> None:
        self.scenario = scenario
        self._due: list[tuple[float, int]] = []
        places = range(scenario.stages)
        self.stages = [Stage(k, scenario, outages[k] if outages else None) for k in places]
        self.down = [Link(scenario, self._wake) for _ in places]
        self.up = [Link(scenario, self._wake) for _ in places]
        self.done = [0.0] * scenario.steps  # time at which all stages had finished a step
        self.first = 0  # the first step that is measured

    def run(self, programs: Sequence[Program]) -> None:
        """Run all programs until they end."""
        left = len(programs)
        self._due = [(0.0, k) for k in range(left)]
        while self._due:
            _, k = heapq.heappop(self._due)
            try:
                awaited = next(programs[k])
            except StopIteration:
                left -= 1
                continue
            if awaited is None:
                heapq.heappush(self._due, (self.stages[k].now, k))
            else:
                awaited.reader = k
        assert not left, f"{left} stages wait for each other in a circle"

    def finished(self, stage: Stage, step: int) -> None:
        """Record that a stage has finished a step, counted from 0."""
        self.done[step] = max(self.done[step], stage.now)
        if step in (self.first - 1, len(self.done) - 1):
            stage.marks.append((stage.now, stage.busy))
        if step == self.first - 1:
            stage.late, stage.latest, stage.used = 0, 0, 0  # gradients are later while pipelines fill

    def _wake(self, time: float, stage: int) -> None:
        heapq.heappush(self._due, (time, stage))
