"""The benchmarks of methods in depth: the methods, the choice of settings, and the checks of the rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from benchmarks.depth import methods as depth
from benchmarks.depth import staleness as lag
from benchmarks.harness import grid, late_methods
from benchmarks.harness.cells import DEPTH, Cell, Trial, late
from benchmarks.harness.grid import Grid, errors_ahead
from benchmarks.harness.methods import METHODS, TASKS, method, settings
from benchmarks.harness.runs import composed
from benchmarks.harness.tuning import best, beyond
from workers.config.validation.check import check


@pytest.mark.long
@pytest.mark.parametrize("task", [task for task in TASKS if task != "two clocks"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_four_settings_that_can_be_run(task: str, name: str) -> None:
    tried = settings(name, TASKS[task].family)
    assert len(set(tried)) == 4
    for setting in tried:
        trial = Trial(task, name, setting, DEPTH.lag_of(name, 2))
        config = composed(*trial.overrides)
        config.model.input_shape = [3, 32, 32] if TASKS[task].family == "cifar" else None
        check(config)
        assert config.depth.lag == (2 if name in ("DNI", "cDNI", "critic", "delayed") else None)


@pytest.mark.long
@pytest.mark.parametrize("task", late_methods.TASKS)
@pytest.mark.parametrize("name", late_methods.METHODS)
def test_every_method_under_late_gradients_has_four_settings_that_can_be_run(
    task: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(late_methods.GPT)
    tried = late_methods.settings(name, late_methods.TASKS[task].family)
    assert len(set(tried)) == 4
    for setting in tried:
        lag = late_methods.COMPARED.lag_of(name, 2)
        config = composed(*Trial(task, name, setting, lag, late_methods.COMPARED).overrides)
        config.model.input_shape = [3, 32, 32] if late_methods.TASKS[task].family == "cifar" else None
        check(config)
        assert config.depth.lag == (None if name in ("backprop", "local", "local + linear head") else 2)


def test_a_gap_is_counted_in_standard_errors_of_paired_seeds() -> None:
    # gaps 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, standard error 0.1 / sqrt(3)
    assert errors_ahead([2.1, 2.3, 2.2], [2.0, 2.1, 1.9]) == pytest.approx(2 * math.sqrt(3))
    assert errors_ahead([2.1], [2.0]) == 0.0


@pytest.mark.long
def test_a_run_of_another_record_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(grid, "QUICK", False)
    cell = Cell("mnist, 3 cuts, backprop", "mnist, 3 cuts", "backprop", ("optimizer.learning_rate=1e-3",), 0)
    Grid("first", "first").fill([cell], lambda cell: {"test": 2.5}, str)
    other = replace(cell, label="the same run, another name")
    rows = Grid("second", "second", others=("first",)).fill([other], lambda cell: pytest.fail("run again"), str)
    assert rows[other.name]["test"] == 2.5


def test_the_window_holds_late_gradients_on_all_edges() -> None:
    assert late(TASKS["text"], None) == ()
    assert late(TASKS["text"], 0) == ("depth.lag=0", "depth.max_in_flight=4")
    assert late(TASKS["text"], 32) == ("depth.lag=32", "depth.max_in_flight=96")
    assert late(TASKS["mnist, 6 cuts"], 1) == ("depth.lag=1", "depth.max_in_flight=6")


def test_between_feature_maps_regressors_convolve() -> None:
    assert method("cDNI", "cifar") == ("depth=synthetic", "predictor=conv")
    assert method("cDNI", "text") == ("depth=synthetic", "predictor=mlp")


def trial(rate: str, hidden: int) -> Trial:
    return Trial("text", "critic", (f"optimizer.learning_rate={rate}", f"predictor.depth.hidden={hidden}"), 1)


@pytest.mark.parametrize(
    ("scores", "chosen", "next_rate"),
    [
        ([2.0, 2.1, 1.9, 2.2], 2, "0.008"),  # the larger rate: twice of it
        ([1.8, 2.1, 1.9, 2.2], 0, "0.001"),  # the smaller one: half of it
        ([math.nan, 2.1, 1.9, 2.2], 2, "0.008"),  # the first one diverged
    ],
)
def test_best_rate_at_the_edge_extends_the_search(scores: list[float], chosen: int, next_rate: str) -> None:
    trials = [trial(rate, hidden) for rate in ("2e-3", "4e-3") for hidden in (0, 8)]
    rows: dict[str, dict[str, Any]] = {
        t.name: {"failed": "DivergedError"} if math.isnan(score) else {"score": score}
        for t, score in zip(trials, scores, strict=True)
    }
    found = best(trials, rows)
    assert found == trials[chosen]
    more = beyond(trials, found)
    assert more is not None
    assert more.setting == (f"optimizer.learning_rate={next_rate}", found.setting[1])
    rows[more.name] = {"score": 3.0}
    assert beyond([*trials, more], best([*trials, more], rows)) is None  # the best rate is between others now


def figures_of(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are saved during a test."""
    drawn, save = list[Figure](), Figure.savefig

    def instead(figure: Figure, *arguments: Any, **more: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", instead)
    return drawn


def row(task: str, test: float, valid: float) -> dict[str, Any]:
    return {"task": task, "test": test, "curve": [[5, 2 * valid], [10, valid]], "cosine": [0.5, 0.7]}


def test_bars_take_the_synthetic_method_that_validation_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {}
    for task in depth.CORE:
        for name, test, valid in (
            ("backprop", 2.0, 2.0), ("DNI", 9.0, 9.0), ("cDNI", 1.0, 2.3), ("critic", 2.1, 2.2),
            ("local", 2.0, 2.0), ("delayed", 2.0, 2.0),
        ):  # fmt: skip
            for seed in (0, 1):
                rows[f"{task}, {name}, seed {seed}"] = row(task, test + 0.1 * seed, valid)
    for task in ("mnist, 8 cuts", "text, 8 cuts"):
        rows |= {f"{task}, critic, seed 0": row(task, 3.0, 3.0), f"{task}, local, seed 0": row(task, 4.0, 3.0)}
    found = {line["bar"]: (line["value"], line["holds"]) for line in depth.bars(rows)}
    assert found == {
        "text: critic, share of backprop's bits above them": (0.0488, False),  # 2.15 / 2.05 - 1
        "mnist, 3 cuts: critic, points of error over backprop's": (0.1, True),
        "mnist, 6 cuts: critic, points of error over backprop's": (0.1, True),
        "cifar: critic, points of error over backprop's": (0.1, True),
        "mnist, 8 cuts: critic over local": (0.75, True),
        "text, 8 cuts: critic over local": (0.75, True),
    }
    speed = {f"{task}, {name}, seed 0": {"ms": 5.0 if name == "backprop" else 6.0}
             for task in depth.CORE for name in METHODS}  # fmt: skip
    lines = depth.lines(rows, speed)
    assert len(lines) == 24
    assert lines[3] == ["text (bits)", "critic", "2.150 ± 0.071", "2.100 2.200", "2.200 ± 0.000", "0.50 0.70", "6.0",
                        "1.20"]  # fmt: skip
    assert [line[:3] for line in depth.extra_lines(rows)] == [
        ["mnist, 8 cuts (error)", "critic", "3.00"], ["mnist, 8 cuts (error)", "local", "4.00"],
        ["text, 8 cuts (bits)", "critic", "3.000"], ["text, 8 cuts (bits)", "local", "4.000"],
    ]  # fmt: skip
    drawn = figures_of(monkeypatch)
    depth.draw(rows, speed, tmp_path / "new" / "depth.png")
    (axes,) = (figure.axes for figure in drawn)
    assert [axis.get_title() for axis in axes] == [task for task in depth.CORE for _ in (0, 1)]
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes[1].lines}
    assert curves["critic"] == [[0.03, 4.4], [0.06, 2.2]]  # 6 ms a step
    assert axes[0].lines[0].get_xydata().tolist() == [[5, 4.0], [10, 2.0]]
    assert (tmp_path / "new" / "depth.png").read_bytes().startswith(b"\x89PNG")


def test_late_targets_are_compared_with_those_of_the_same_method_on_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for task in lag.STEPS:
        for seed in (0, 1):
            rows |= {f"{task}, {name}, seed {seed}": row(task, 2.0, 2.0) for name in lag.PUNCTUAL}
            for n in (0, 1, 2, 4, 8, 16, 32):
                for name, test in (("cDNI", 3.0 + n), ("critic", 2.0 + n / 200), (lag.FADING, 2.0), ("delayed", 2.0)):
                    rows[f"{task}, {name}, lag {n}, seed {seed}"] = row(task, test, test)
        rows[f"{task}, cDNI, lag 32, seed 1"] = {"failed": "DivergedError"}
    found = {line["bar"]: (line["value"], line["holds"]) for line in lag.bars(rows)}
    assert found == {
        f"{task}: {name} at lag {n} over lag 0": values
        for task in lag.STEPS
        for name, n, values in (
            ("critic", 8, (1.02, True)), ("critic", 32, (1.08, False)),
            (lag.FADING, 8, (1.0, True)), (lag.FADING, 32, (1.0, True)),
        )
    }  # fmt: skip
    lines = lag.lines(rows)
    assert lines[2][:3] == ["text (bits)", "cDNI", "3.00 ± 0.00 (2 seeds)"]
    assert lines[2][-2:] == ["35.00 (1 diverged) (2 seeds)", "3.667"]
    assert lines[6][:2] == ["mnist, 3 cuts (error %)", "backprop"]
    drawn = figures_of(monkeypatch)
    lag.draw(rows, tmp_path / "lag.png")
    (axes,) = (figure.axes for figure in drawn)
    assert [axis.get_title() for axis in axes] == [*lag.STEPS]
    curves = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes[0].containers}
    assert curves["critic"] == [[n, 2.0 + n / 200] for n in (0, 1, 2, 4, 8, 16, 32)]
    assert (tmp_path / "lag.png").read_bytes().startswith(b"\x89PNG")
