"""Estimate the duration of a series of runs: first from recorded times, then from the runs that are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class TimeLeft:
    """Time left in runs with known seconds on another machine.

    Args:
        expected: seconds of each run on that machine, in order
        clock: a clock in seconds; tests pass their own
    """

    def __init__(self, expected: Sequence[float], clock: Callable[[], float] = time.monotonic) -> None:
        self.expected, self._clock, self._start = expected, clock, clock()
        self.done, self._ended = 0, self._start

    def finished(self) -> None:
        """Count the next run as ended."""
        self.done += 1
        self._ended = self._clock()

    @property
    def pace(self) -> float:
        """Return seconds here over seconds there for the finished runs; 1 before the first has ended."""
        before = sum(self.expected[: self.done])
        return (self._ended - self._start) / before if before else 1.0

    @property
    def left_s(self) -> float:
        """Return the estimated seconds until the last run ends."""
        return sum(self.expected[self.done :]) * self.pace

    def __str__(self) -> str:
        at = f"run {self.done + 1} of {len(self.expected)}"
        return f"{at}, {minutes(self.left_s)} left in all" if self.done else at


def minutes(seconds: float) -> str:
    """Round a time for display: "about 40 s", "about 7 min"."""
    return f"about {max(5, round(seconds / 5) * 5)} s" if seconds < 90 else f"about {round(seconds / 60)} min"
