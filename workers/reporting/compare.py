"""Compare a row with a baseline, seed by seed, and sum up many seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dni.errors import ConfigError
from workers.config.suggest import did_you_mean
from workers.reporting.aggregate import Group, value

#: Resamples of a bootstrap, and its seed: a report of the same runs has the same intervals.
RESAMPLES, SEED = 10_000, 0

#: Fewest pairs for an interval, and fewest runs for an interquartile mean.
PAIRS, RUNS = 3, 4


@dataclass(frozen=True)
class Difference:
    """The mean over the seeds that both rows have of (this row - baseline), with a 95 % interval."""

    mean: float
    low: float | None  #: None: fewer than `PAIRS` pairs
    high: float | None
    pairs: int


def paired_difference(group: Group, baseline: Group, place: Sequence[str]) -> Difference | None:
    """Return the difference of a figure; None without a seed that both rows have it for.

    The interval is the percentile bootstrap of the mean difference (Efron and Tibshirani 1993, chapter 13).
    """
    own, other = values_by_seed(group, place), values_by_seed(baseline, place)
    differences = np.array([own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())])
    if not len(differences):
        return None
    if len(differences) < PAIRS:
        return Difference(float(differences.mean()), None, None, len(differences))
    chosen = np.random.default_rng(SEED).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[chosen].mean(axis=1), [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high), len(differences))


def values_by_seed(group: Group, place: Sequence[str]) -> dict[int, float]:
    """Return a figure of the row's runs by seed; of runs with equal seeds the mean."""
    found: dict[int, list[float]] = {}
    for run in group.runs:
        seed, figure = (run.summary or {}).get("seed"), value(run.summary, place)
        if isinstance(seed, int) and figure is not None:
            found.setdefault(seed, []).append(figure)
    return {seed: math.fsum(figures) / len(figures) for seed, figures in found.items()}


def interquartile_mean(values: Sequence[float]) -> float | None:
    """Return the mean of the middle half of the values; None for fewer than `RUNS`.

    A value on the border of the middle half counts by its share in it (Agarwal et al. 2021 recommend this mean for few
    runs: outliers do not move it, and it is less noisy than the median).
    """
    if len(values) < RUNS:
        return None
    n = len(values)
    places = np.arange(n)
    weights = np.clip(np.minimum(places + 1, 0.75 * n) - np.maximum(places, 0.25 * n), 0, None)
    return float(np.average(np.sort(values), weights=weights))


def find_baseline(groups: Sequence[Group], name: str) -> Group | None:
    """Return the row of one task that `name` stands for: its label, method, method in depth, or a setting's value.

    Return None if the task has no such row. Raises ConfigError if several rows have it.
    """
    found = [group for group in groups if name in names_of(group)]
    exact = [group for group in found if name == group.label]
    if len(exact or found) > 1:
        labels = " or ".join(f"'{group.label}'" for group in found)
        raise ConfigError(f"--baseline {name} stands for {len(found)} rows of {found[0].task}: name one, {labels}")
    return next(iter(exact or found), None)


def refuse_unknown(tasks: Mapping[str, Sequence[Group]], name: str) -> None:
    """Raise ConfigError for a baseline that no task has."""
    if all(find_baseline(groups, name) is None for groups in tasks.values()):
        labels = sorted({group.label for groups in tasks.values() for group in groups})
        hint = did_you_mean(name, labels)
        raise ConfigError(f"--baseline {name}: no row has this name{hint}; choose from: {'; '.join(labels)}")


def names_of(group: Group) -> set[str]:
    """Return the names under which a row can be the baseline."""
    depths = {method.partition(" + ")[0] for method in group.methods}
    settings = {f"{key}={value}" for key, value in group.values.items()}
    return {group.label, *group.methods, *(depths if len(depths) == 1 else ()), *group.values.values(), *settings}
