"""Grouping of runs, with mean and deviation worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.run_folders import write_run
from workers.reporting.aggregate import group_runs, spread
from workers.tracking.run import find_runs


def test_seeds_are_one_group_with_mean_and_deviation(tmp_path: Path) -> None:
    for seed, bits in enumerate((2.0, 3.0, 7.0)):
        write_run(tmp_path / f"a{seed}", seed, bits)
    write_run(tmp_path / "b", 0, 1.25, depth="synthetic")
    first, second = group_runs(find_runs([tmp_path]))
    assert (first.label, second.label) == ("backprop + truncated", "synthetic + truncated")
    # mean 12 / 3; squared deviations 4 + 1 + 9 = 14, sample variance 7
    mean, deviation, n = spread(first, ("valid", "bits_per_label"))
    assert (mean, n) == (4.0, 3)
    assert deviation == pytest.approx(2.6457513110645907)
    assert spread(second, ("valid", "bits_per_label")) == (1.25, None, 1)


def test_settings_of_the_configuration_split_groups_too(tmp_path: Path) -> None:
    for seed, rate in ((0, 0.1), (1, 0.1), (0, 0.2)):
        write_run(tmp_path / f"{seed}-{rate}", seed, config=f"seed: {seed}\noptimizer:\n  learning_rate: {rate}\n")
    groups = group_runs(find_runs([tmp_path]))
    assert {(g.label, len(g.runs)) for g in groups} == {
        ("backprop + truncated, optimizer.learning_rate=0.1", 2),
        ("backprop + truncated, optimizer.learning_rate=0.2", 1),
    }
    (both,) = group_runs(find_runs([tmp_path]), by=["stages"])
    assert (both.label, len(both.runs)) == ("stages=2", 3)


def test_the_step_at_which_patience_ended_is_no_setting(tmp_path: Path) -> None:
    for seed, steps in ((0, 20), (1, 30)):
        write_run(tmp_path / str(seed), seed, config="steps: 90", steps=steps, ended="patience")
    write_run(tmp_path / "whole", 2, config="steps: 90", steps=90, ended="steps")
    (group,) = group_runs(find_runs([tmp_path]))
    assert len(group.runs) == 3
    write_run(tmp_path / "short", 0, config="steps: 20", steps=20, ended="steps")
    assert [len(group.runs) for group in group_runs(find_runs([tmp_path]))] == [3, 1]


def test_only_distinguishing_settings_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "a", window=4, config="depth: {window: 4}")
    write_run(tmp_path / "b", window=8, config="depth: {window: 8}")
    assert [group.label for group in group_runs(find_runs([tmp_path]))] == [
        "backprop + truncated, window=4",
        "backprop + truncated, window=8",
    ]
