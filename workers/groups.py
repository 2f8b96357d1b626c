"""Run folders as groups: runs that differ only in their seed are one, with mean and standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dni.errors import ConfigError
from workers.suggest import did_you_mean
from workers.summary import FACTS, Run


@dataclass(frozen=True)
class Group:
    """Runs that differ only in seed; `values`: the settings shown, by key; `methods`: "depth + time"."""

    values: dict[str, str]
    methods: list[str]
    runs: list[Run]

    @property
    def label(self) -> str:
        return ", ".join(v if key == "method" else f"{key}={v}" for key, v in self.values.items())


def group_runs(runs: Sequence[Run], by: Sequence[str] = ()) -> list[Group]:
    """Finished runs with equal settings (all but the seed, or those named by `by`) together.

    Raises ConfigError for a key of `by` that no run has.
    """
    settings = [(run.settings(), run) for run in runs if run.summary is not None]
    known = sorted({key for have, _ in settings for key in have})
    if settings and (unknown := [key for key in by if key not in known]):
        hint = did_you_mean(unknown[0], known)
        raise ConfigError(f"--by {' '.join(unknown)}: no run has it{hint}; choose from: {', '.join(known)}")
    groups: dict[tuple[str, ...], list[tuple[dict[str, str], Run]]] = {}
    for have, run in settings:
        groups.setdefault(tuple(have.get(key, "-") for key in by or known), []).append((have, run))
    shown = list(by) or _telling([members[0][0] for members in groups.values()], known)
    return [_group(members, shown) for members in groups.values()]


def _group(members: list[tuple[dict[str, str], Run]], shown: Sequence[str]) -> Group:
    values = {key: members[0][0].get(key, "-") for key in shown}
    methods = list(dict.fromkeys(have["method"] for have, _ in members))
    return Group(values, methods, [run for _, run in members])


def _telling(groups: Sequence[Mapping[str, str]], known: Sequence[str]) -> list[str]:
    """The method and as few other settings as tell the groups apart."""

    def told(keys: Sequence[str]) -> int:
        return len({tuple(group.get(key, "-") for key in keys) for group in groups})

    shown = ["method"]
    while told(shown) < len(groups):
        shown.append(max([*FACTS, *known], key=lambda key: told([*shown, key])))
    return shown


def spread(group: Group, place: Sequence[str]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation (None for fewer than two) and number of the group's values."""
    found = [v for run in group.runs if (v := value(run.summary, place)) is not None]
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return statistics.fmean(found) if found else None, deviation, len(found)


def value(tree: Any, place: Sequence[str]) -> float | None:
    """The number at a place of a summary, None if there is none; of a list: the mean over its entries."""
    if isinstance(tree, list):
        found = [v for entry in tree if (v := value(entry, place)) is not None]
        return statistics.fmean(found) if found else None
    if place:
        return value(tree.get(place[0]), place[1:]) if isinstance(tree, dict) else None
    return float(tree) if isinstance(tree, int | float) else None
