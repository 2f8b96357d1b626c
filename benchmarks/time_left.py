"""How long a series of runs will take: a guess before the first one, then by the pace of those that are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class TimeLeft:
    """Time left in runs whose seconds on another machine are known.

    Args:
        expected: seconds of each run on that machine, in order.
        clock: seconds; tests give their own.
    """

    def __init__(self, expected: Sequence[float], clock: Callable[[], float] = time.monotonic) -> None:
        self.expected, self._clock, self._start = expected, clock, clock()
        self.done, self._ended = 0, self._start

    def finished(self) -> None:
        """The next run has ended."""
        self.done += 1
        self._ended = self._clock()

    @property
    def pace(self) -> float:
        """Seconds here over seconds there, of the runs that are done; 1 before the first has ended."""
        before = sum(self.expected[: self.done])
        return (self._ended - self._start) / before if before else 1.0

    @property
    def left_s(self) -> float:
        """Seconds until the last run ends, at the pace so far."""
        return sum(self.expected[self.done :]) * self.pace

    def __str__(self) -> str:
        at = f"run {self.done + 1} of {len(self.expected)}"
        return f"{at}, {minutes(self.left_s)} left in all" if self.done else at


def minutes(seconds: float) -> str:
    """A time in words, as exact as it is needed: "about 40 s", "about 7 min"."""
    return f"about {max(5, round(seconds / 5) * 5)} s" if seconds < 90 else f"about {round(seconds / 60)} min"
