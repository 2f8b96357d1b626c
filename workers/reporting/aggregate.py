"""Group run folders: runs that differ only in their seed form one row, with mean and standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dni.errors import ConfigError
from workers.config.suggest import did_you_mean
from workers.reporting.tasks import CUT_SHORT, FACTS, TASK, run_id, separates_runs, settings_of, steps_done, titles_of
from workers.tracking.run import Run


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, or only in settings that `by` does not name."""

    task: str  #: data, model and length of training, as text
    values: dict[str, str]  #: the settings shown, by key
    methods: list[str]  #: "depth + time"
    runs: list[Run]  #: the runs in the means: each once, none that has diverged
    diverged: list[Run] = field(default_factory=list)
    repeated: list[Run] = field(default_factory=list)  #: runs whose continuation or copy is among `runs`
    differing: dict[str, list[str]] = field(
        default_factory=dict
    )  #: settings that differ within the group, with their values

    @property
    def label(self) -> str:
        named = ", ".join(v if key == "method" else f"{key}={v}" for key, v in self.values.items())
        return f"{named} (cut short)" if self.cut_short and len(self.cut_short) == len(self.runs) else named

    @property
    def cut_short(self) -> list[Run]:
        return [run for run in self.runs if (run.summary or {}).get("interrupted")]

    @property
    def seeds(self) -> str:
        """The seeds of the runs in the means, sorted."""
        found = [(run.summary or {}).get("seed") for run in self.runs]
        return " ".join(str(seed) for seed in sorted(found, key=lambda seed: (seed is None, seed or 0)))

    @property
    def machines(self) -> list[str]:
        """The machines that its runs name, sorted."""
        return sorted({m for run in self.runs for m in (run.summary or {}).get("machines", [])})


def group_runs(runs: Sequence[Run], by: Sequence[str] = ()) -> list[Group]:
    """Group finished runs of one task with equal settings (all but the seed, or those named by `by`).

    Groups of one task are adjacent. Raises ConfigError for a key of `by` that no run has.
    """
    finished = [run for run in runs if run.summary is not None and not continuation(run, runs)]
    if not finished:
        return []
    table = pd.DataFrame([settings_of(run) for run in finished], dtype=str).fillna("-")
    if unknown := [key for key in by if key not in table]:
        hint = did_you_mean(unknown[0], _keys(table))
        raise ConfigError(f"--by {' '.join(unknown)}: no run has it{hint}; choose from: {', '.join(_keys(table))}")
    tasks = [task for _, task in table.groupby([key for key in TASK if key in table], sort=False)]
    titles = titles_of([_first(task) for task in tasks])
    return [
        _group(title, rows, finished, shown)
        for title, task in zip(titles, tasks, strict=True)
        for rows, shown in _rows(task, by)
    ]


def continuation(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the run among `runs` that continues this one if it was cut short, or None."""
    cut_short = run.summary is None or run.summary.get("interrupted") or run.summary.get("ended") == "diverged"
    if not cut_short:
        return None
    others = [other for other in runs if other is not run and run_id(other) == run_id(run)]
    return next((other for other in others if _rank(other) > _rank(run)), None)


def _rank(run: Run) -> tuple[bool, bool, int]:
    summary = run.summary or {}
    ended_well = bool(summary) and not summary.get("interrupted") and summary.get("ended") != "diverged"
    return ended_well, bool(summary), steps_done(run)


def _rows(task: pd.DataFrame, by: Sequence[str]) -> list[tuple[pd.DataFrame, list[str]]]:
    """Return the runs of each row of a task's table, with the settings that distinguish the rows."""
    keys = list(by) or [key for key in _keys(task) if separates_runs(key)]
    rows = [row for _, row in task.groupby(keys, sort=False)]
    shown = list(by) or _distinguishing([_first(row) for row in rows], [key for key in keys if key != CUT_SHORT])
    return [(row, shown) for row in rows]


def _group(title: str, rows: pd.DataFrame, finished: Sequence[Run], shown: Sequence[str]) -> Group:
    members = [finished[index] for index in rows.index]
    diverged = [run for run in members if (run.summary or {}).get("ended") == "diverged"]
    counted: dict[str, Run] = {}
    for run in sorted((run for run in members if run not in diverged), key=_rank, reverse=True):
        counted.setdefault(run_id(run), run)
    kept = [run for run in members if run in counted.values()]
    varied = {key: list(rows[key].unique()) for key in _keys(rows) if separates_runs(key) and key != CUT_SHORT}
    return Group(
        task=title,
        values={key: rows[key].iloc[0] if key in rows else "-" for key in shown},
        methods=list(rows["method"].unique()),
        runs=kept,
        diverged=diverged,
        repeated=[run for run in members if run not in kept and run not in diverged],
        differing={key: values for key, values in varied.items() if len(values) > 1},
    )


def _first(table: pd.DataFrame) -> dict[str, str]:
    return {str(key): value for key, value in table.iloc[0].items()}


def _keys(table: pd.DataFrame) -> list[str]:
    return sorted(map(str, table))


def _distinguishing(groups: Sequence[Mapping[str, str]], known: Sequence[str]) -> list[str]:
    """Return the method and the fewest other settings that distinguish the groups as far as settings can."""

    def distinct(keys: Sequence[str]) -> int:
        return len({tuple(group.get(key, "-") for key in keys) for group in groups})

    shown, most = ["method"], distinct(known)
    while distinct(shown) < most:
        shown.append(max([*FACTS, *known], key=lambda key: distinct([*shown, key])))
    return shown


def spread(group: Group, place: Sequence[str]) -> tuple[float | None, float | None, int]:
    """Return mean, sample standard deviation (None for fewer than two) and number of the group's values."""
    found = [v for run in group.runs if (v := value(run.summary, place)) is not None]
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return statistics.fmean(found) if found else None, deviation, len(found)


def value(tree: Any, place: Sequence[str]) -> float | None:
    """Return the number at a place of a summary, or None; for a list the mean over its entries."""
    if isinstance(tree, list):
        found = [v for entry in tree if (v := value(entry, place)) is not None]
        return statistics.fmean(found) if found else None
    if place:
        return value(tree.get(place[0]), place[1:]) if isinstance(tree, dict) else None
    return float(tree) if isinstance(tree, int | float) else None


def unit_of(groups: Sequence[Group]) -> str | None:
    """Return the unit of the losses of these runs; None for nats, which are shown in bits."""
    summaries = [run.summary or {} for group in groups for run in group.runs]
    return next((summary["valid"]["unit"] for summary in summaries if "unit" in (summary.get("valid") or {})), None)


def metrics_of(groups: Sequence[Group]) -> dict[str, bool]:
    """Return the metrics of these runs by key, with True if a larger value is better."""
    summaries = [run.summary or {} for group in groups for run in group.runs]
    return {key: up for summary in summaries for key, up in (summary.get("higher_is_better") or {}).items()}
