"""Comparisons with a baseline, the middle of many seeds, and warnings about unfair rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.run_folders import write_run
from workers.reporting.aggregate import Group, group_runs
from workers.reporting.compare import find_baseline, interquartile_mean, paired_difference
from workers.reporting.fairness import warnings
from workers.reporting.formats import as_csv, as_latex, as_markdown, tex
from workers.reporting.page import Section
from workers.reporting.report import main
from workers.reporting.table import table_rows
from workers.tracking.run import Run, find_runs

BITS = ("valid", "bits_per_label")


def rows_of(folder: Path, **bits: list[float]) -> list[Group]:
    """Write runs of methods, one for each number of bits, with seeds 0, 1, ...; return their rows."""
    for depth, values in bits.items():
        for seed, value in enumerate(values):
            write_run(folder / f"{depth}{seed}", seed, value, depth=depth)
    return group_runs(find_runs([folder]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9.0, 1.0, 2.0, 4.0], 3.0),  # 2 and 4
        ([0.0, 1.0, 2.0, 3.0, 100.0], (0.75 * 1 + 2 + 0.75 * 3) / 2.5),
        ([5.0, 1.0, 3.0, 4.0, 2.0, 6.0, 8.0, 7.0], 4.5),  # 3, 4, 5, 6
        ([1.0, 2.0, 3.0], None),
    ],
)
def test_the_interquartile_mean_is_of_the_middle_half(values: list[float], expected: float | None) -> None:
    assert interquartile_mean(values) == (None if expected is None else pytest.approx(expected))


def test_a_difference_pairs_the_seeds(tmp_path: Path) -> None:
    """Seeds differ by far more than methods: by seed the difference is -0.1, -0.2 and -0.3."""
    base, other = rows_of(tmp_path, backprop=[1.0, 5.0, 9.0, 20.0], synthetic=[0.9, 4.8, 8.7])
    found = paired_difference(other, base, BITS)
    assert found is not None
    assert found.mean == pytest.approx(-0.2)
    assert found.pairs == 3
    # of 27 equally likely resamples, one has the mean -0.3 and one -0.1, three each -0.2667 and -0.1333:
    # both 2.5 % points lie in the outermost ones
    assert (found.low, found.high) == (pytest.approx(-0.3), pytest.approx(-0.1))
    assert paired_difference(other, base, BITS) == found


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    """See Efron and Tibshirani: with 30 pairs a 95 % percentile interval holds the true mean in 90 to 97 of 100."""
    draw, held = Random(3), 0
    for _ in range(40):
        values = [draw.gauss(1.0, 2.0) for _ in range(30)]
        runs = [[Run(Path(), {"seed": n, "x": v}) for n, v in enumerate(each)] for each in (values, [0.0] * 30)]
        own, base = (Group("task", {}, [], each) for each in runs)
        found = paired_difference(own, base, ("x",))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.0 <= found.high
    assert 34 <= held <= 40


def test_every_format_shows_both(tmp_path: Path) -> None:
    groups = rows_of(tmp_path, backprop=[1.0, 2.0, 3.0, 4.0], synthetic=[2.0, 3.0, 4.0, 5.0], local=[0.5])
    sections = [Section("a task", table_rows(groups, "backprop"))]
    head, base, local, synthetic = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in as_markdown(sections, []).splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    at = head.index("valid (bits/label) - backprop [95 %]")
    assert head[at - 1] == "valid (bits/label) IQM"
    assert [row[at] for row in (base, local, synthetic)] == [
        "-", "-0.500 (pairs: 1)", "+1.000 [+1.000, +1.000]",
    ]  # fmt: skip
    assert [row[at - 1] for row in (base, local, synthetic)] == ["2.500", "-", "3.500"]
    text = as_csv({"a task": groups}, "backprop")
    found = {row["method"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}
    assert float(found["synthetic + truncated"]["difference"]) == 1.0
    assert found["backprop + truncated"]["pairs"] == ""
    latex = as_latex(sections)
    assert latex.count(r"\begin{table}") == latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert len({line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")}) == 1
    assert r"2.500 $\pm$ 1.291" in latex


def test_signs_of_latex_are_written_out() -> None:
    assert tex(r"a_b & 5% \x") == r"a\_b \& 5\% \textbackslash{}x"


def test_a_baseline_is_named_by_method_label_or_setting(tmp_path: Path) -> None:
    groups = rows_of(tmp_path, backprop=[1.0], synthetic=[2.0])
    for name in ("backprop", "backprop + truncated", "method=backprop + truncated"):
        assert find_baseline(groups, name) is groups[0]
    assert find_baseline(groups, "delayed") is None


def test_an_unknown_and_an_ambiguous_baseline_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows_of(tmp_path / "runs", backprop=[1.0], synthetic=[2.0])
    assert main([str(tmp_path / "runs"), "--baseline", "backprob"]) == 2
    assert "--baseline backprob: no row has this name" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "report").exists()
    write_run(tmp_path / "runs" / "more", 0, 1.0, stages=4)
    groups = group_runs(find_runs([tmp_path / "runs"]))
    with pytest.raises(ConfigError, match="stands for 2 rows"):
        table_rows(groups, "backprop")


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"parameters": 9}, "differ in parameters of the model (7 / 9): a larger model may be better by its size alone."),
    ({"steps": 10}, "differ in steps taken (10 / 20)"),
    ({"versions": {"torch": "3.0"}}, "differ in versions (torch 2.0 / torch 3.0)"),
    ({"machines": ["b"]}, "differ in machines (a / b): their times cannot be compared."),
    ({"commit": "f0"}, "differ in code (e0 / f0)"),
    ({"seed": 1}, "have different seeds"),
    ({"config": "data: {batch: 8}\nsteps: 20"}, "differ in data.batch (4 / 8), which the table does not show"),
    ({}, ""),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[next(iter(change), "none") for change, _ in CHANGES])
def test_an_unfair_comparison_is_named(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    same = {"parameters": 7, "versions": {"torch": "2.0"}, "machines": ["a"], "commit": "e0"}
    config = "data: {batch: 4}\nsteps: 20"
    write_run(tmp_path / "a", **{"config": config, **same})
    write_run(tmp_path / "b", **{"config": config, "depth": "synthetic", **same, **change})
    found = warnings(group_runs(find_runs([tmp_path])))
    assert len(found) == (1 if change else 0)
    assert expected in "".join(found)


def test_diverged_seeds_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, ended="diverged")
    (warning,) = warnings(group_runs(find_runs([tmp_path])))
    assert warning == "backprop + truncated: 1 of 2 runs diverged; the means are of the others alone."
