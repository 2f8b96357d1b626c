"""Notes of a report: what limits a row's figures, and which runs are in no row."""

from __future__ import annotations

from collections.abc import Sequence

from workers.reporting.aggregate import Group, continuation
from workers.reporting.tasks import steps_done
from workers.tracking.run import Run

#: Most differing settings, and most values of each, that a note lists.
MOST = 4


def notes(group: Group) -> str:
    """Return the notes on one row as one line; empty if there are none."""
    lines = []
    if group.diverged:
        lines.append(f"{len(group.diverged)} diverged, not in the means")
    if group.cut_short:
        lines.append(f"cut short at step {', '.join(str(steps_done(run)) for run in group.cut_short)}")
    lines += [*_resumed(group), *_differing(group)]
    return "; ".join(lines)


def left_out(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """Return a line for every run that is in no mean, with the reason."""
    lines = [f"diverged: {run.path}, at step {steps_done(run)}" for group in groups for run in group.diverged]
    for run in runs:
        later = continuation(run, runs)
        if later is not None:
            lines.append(f"cut short at step {steps_done(run)}: {run.path}, continued in {later.path}")
        elif run.summary is None:
            lines.append(f"unfinished: {run.path}: no summary.json, last record at step {steps_done(run)}")
    for group in groups:
        lines += [f"counted once: {run.path} is the same run as another in its row" for run in group.repeated]
    return lines


def _resumed(group: Group) -> list[str]:
    summaries = [run.summary or {} for run in group.runs]
    sittings = [int(summary.get("sittings", 1)) for summary in summaries]
    twice = sum(int(summary.get("repeated", {}).get("steps", 0)) for summary in summaries)
    lines = [f"in {max(sittings)} sittings"] if max(sittings, default=1) > 1 else []
    lines += [f"{twice} steps computed twice"] if twice else []
    if any(len(summary.get("machines", [])) > 1 for summary in summaries):
        lines.append("resumed on another machine")
    elif len(group.machines) > 1:
        lines.append(f"on {len(group.machines)} machines")
    return lines


def _differing(group: Group) -> list[str]:
    named = [f"{key} {_few(values)}" for key, values in list(group.differing.items())[:MOST]]
    more = len(group.differing) - len(named)
    return [f"differ: {', '.join(named)}{f' and {more} more' if more > 0 else ''}"] if named else []


def _few(values: Sequence[str]) -> str:
    return "/".join(values[:MOST]) + ("/..." if len(values) > MOST else "")
