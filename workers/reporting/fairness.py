"""Warnings where the rows of one task do not compare like with like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from workers.reporting.aggregate import Group
from workers.reporting.tasks import settings_of, steps_done
from workers.tracking.run import Run

#: Settings of the budget and the data that rows should share, as long as the table does not show them.
SHARED = ("data.batch", "data.window", "data.sequence", "evaluate.windows", "precision", "optimizer.accumulate")

#: Most values that a warning lists.
MOST = 4


def warnings(groups: Sequence[Group]) -> list[str]:
    """Return warnings about comparing the rows of one task, each with what to do."""
    return [*_lost(groups), *_unfair(groups)] if len(groups) > 1 else [*_lost(groups)]


def _lost(groups: Sequence[Group]) -> Iterator[str]:
    """Yield rows whose means leave out runs that diverged: the mean of the others flatters them."""
    for group in groups:
        if group.diverged:
            lost, everyone = len(group.diverged), len(group.runs) + len(group.diverged)
            yield f"{group.label}: {lost} of {everyone} runs diverged; the means are of the others alone."


def _unfair(groups: Sequence[Group]) -> Iterator[str]:
    counted = [group for group in groups if group.runs]
    if len({group.seeds for group in counted}) > 1:
        yield "The rows have different seeds: their means cover different trials."
    for what, why, read in _FACTS:
        found = {group.label: _values(group.runs, read) for group in counted}
        everything = set().union(*found.values()) if found else set()
        if len({*map(frozenset, found.values())}) > 1 and len(everything) > 1:
            yield f"The rows differ in {what} ({_few(everything)}): {why}"
    shown = {key for group in groups for key in group.values}
    for key in SHARED:
        values = {settings_of(run).get(key, "-") for group in counted for run in group.runs}
        if len(values - {"-"}) > 1 and key not in shown:
            yield f"The rows differ in {key} ({_few(values)}), which the table does not show: use --by method {key}."


def _values(runs: Iterable[Run], read: Callable[[Run], Any]) -> set[str]:
    return {str(found) for run in runs if (found := read(run)) is not None}


def _summary(key: str) -> Callable[[Run], Any]:
    return lambda run: (run.summary or {}).get(key)


def _versions(run: Run) -> str | None:
    known = (run.summary or {}).get("versions") or {}
    return " ".join(f"{name} {known[name]}" for name in ("python", "torch", "dni") if known.get(name)) or None


def _machines(run: Run) -> str | None:
    return " and ".join((run.summary or {}).get("machines", [])) or None


def _data(run: Run) -> str | None:
    return ((run.summary or {}).get("data") or {}).get("sha256")


#: What rows should share, why, and how a run tells it.
_FACTS: tuple[tuple[str, str, Callable[[Run], Any]], ...] = (
    ("data", "their files are not the same.", _data),
    ("steps taken", "compare them at equal steps, or by a curve.", steps_done),
    ("parameters of the model", "a larger model may be better by its size alone.", _summary("parameters")),
    ("versions", "repeat them with the same ones.", _versions),
    ("machines", "their times cannot be compared.", _machines),
    ("code", "repeat them at one commit.", _summary("commit")),
)


def _few(values: Iterable[str]) -> str:
    listed = sorted(values)
    return " / ".join(each[:40] for each in listed[:MOST]) + (" / ..." if len(listed) > MOST else "")
