"""Show the progress of a sweep: bars on a terminal, or a line for every run that has ended."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from workers.cli.sweep.outcome import Outcome
from workers.tracking.run import METRICS

_STEP = re.compile(rb'"step": (\d+)')
_TAIL_BYTES = 4096


def newest_step(run_dir: Path) -> int:
    """Return the step of a run's newest complete record; 0 if there is none."""
    try:
        with (run_dir / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    found = [match for line in lines if (match := _STEP.search(line))]
    return int(found[-1][1]) if found else 0


class SweepProgress:
    """Progress of the runs that are left to do, counted in steps.

    Args:
        console: where to print
        runs: the number of runs
        steps: the planned steps of all runs together
    """

    def __init__(self, console: Console, runs: int, steps: int) -> None:
        self.console, self.runs, self.steps = console, runs, max(1, steps)
        self.ended_runs = 0
        self._ended_steps, self._begun = 0, time.monotonic()
        self._bars: dict[str, TaskID] = {}
        self._live = Progress(BarColumn(), TextColumn("{task.description}"), console=console)
        self._whole = self._live.add_task("", total=self.steps)
        if console.is_terminal:
            self._live.start()

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self.console.is_terminal:
            self._live.stop()

    def show(self, running: Mapping[str, tuple[int, int]]) -> None:
        """Draw the runs that are running: label -> steps done, planned steps."""
        if not self.console.is_terminal:
            return
        for label in self._bars.keys() - running.keys():
            self._live.remove_task(self._bars.pop(label))
        for label, (done, planned) in running.items():
            if label not in self._bars:
                self._bars[label] = self._live.add_task(escape(label), total=planned)
            self._live.update(self._bars[label], completed=done)
        done = self._ended_steps + sum(steps for steps, _ in running.values())
        self._live.update(self._whole, completed=done, description=self.summary(done))

    def ended(self, outcome: Outcome, planned: int) -> None:
        """Count a run as ended."""
        self.ended_runs, self._ended_steps = self.ended_runs + 1, self._ended_steps + planned
        took = "" if outcome.seconds is None else f" in {outcome.seconds:.1f} s"
        why = f": {outcome.line}" if outcome.line else ""
        text = f"run {outcome.run_dir.name} ({' '.join(outcome.words)}) {outcome.state.value}{took}{why}"
        tail = "" if self.console.is_terminal else f" | {self.summary(self._ended_steps)}"
        self.console.print(text + tail, soft_wrap=True, markup=False, highlight=False)

    def summary(self, done: int) -> str:
        """Return how many runs have ended, and the time left at the pace so far."""
        text = f"{self.ended_runs} of {self.runs} runs"
        if not 0 < done < self.steps:
            return text
        left = (time.monotonic() - self._begun) / done * (self.steps - done)
        return f"{text}, {timedelta(seconds=round(left))} left"
