"""The outcome of every run of a sweep, their table, and the exit code."""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class State(enum.Enum):
    """How a run of a sweep has ended."""

    finished = "finished"
    before = "finished before"  #: in an earlier start of this sweep; skipped
    failed = "failed"
    diverged = "diverged"
    interrupted = "interrupted"
    waiting = "not started"


@dataclass(frozen=True)
class Outcome:
    """A run of a sweep that has ended, or was not started."""

    number: int
    words: tuple[str, ...]  #: the settings that differ between the runs, as typed
    run_dir: Path
    state: State
    line: str = ""  #: the reason, if it did not finish
    seconds: float | None = None  #: wall time of its process in this start of the sweep


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 if all runs have finished, 130 if some were interrupted or not started, else 1."""
    states = {outcome.state for outcome in outcomes}
    if states & {State.interrupted, State.waiting}:
        return 130
    return 0 if states <= {State.finished, State.before} else 1


def finish_sweep(outcomes: Sequence[Outcome]) -> None:
    """Print the table of a sweep, and exit with its code; nothing without outcomes."""
    if not outcomes:
        return
    Console().print(table(outcomes))
    code = exit_code(outcomes)
    if code:
        sys.exit(code)


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return a table with a row per run."""
    rows = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for heading in ("run", "settings", "state", "s", "why"):
        rows.add_column(heading, overflow="fold", justify="right" if heading == "s" else "left")
    for each in outcomes:
        seconds = "" if each.seconds is None else f"{each.seconds:.1f}"
        cells = (each.run_dir.name, " ".join(each.words), each.state.value, seconds, each.line)
        rows.add_row(*(Text(cell) for cell in cells))
    return rows


def differing(jobs: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return, for every run, its settings that are not those of all runs."""
    common = set.intersection(*(set(job) for job in jobs)) if jobs else set()
    return [tuple(word for word in job if word not in common) for job in jobs]
