"""A benchmark's grid: finished cells are not run again; tables and bars are arithmetic on its rows."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from benchmarks.harness import grid, runs
from benchmarks.harness.grid import Grid, by_seed, spread
from benchmarks.harness.runs import recipe
from benchmarks.time import copy_task as copying
from benchmarks.time import online, ptb


@dataclass(frozen=True)
class Cell:
    name: str
    overrides: tuple[str, ...]


def test_only_missing_or_changed_cells_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(grid, "QUICK", False)
    made, ran = Grid("some", "some", {"symbols": 5}), []

    def measure(cell: Cell) -> dict[str, Any]:
        ran.append(cell.name)
        return {"value": len(ran)}

    cells = [Cell("a, seed 0", ("seed=0",)), Cell("a, seed 1", ("seed=1",))]
    rows = made.fill(cells, measure, str, at_once=1)
    assert [row["value"] for row in rows.values()] == [1, 2]
    kept = json.loads((tmp_path / "some.json").read_text())
    assert (kept["symbols"], kept["rows"], kept["bars"]) == (5, rows, [])
    again = [cells[0], Cell("a, seed 1", ("seed=1", "steps=7")), Cell("b, seed 0", ("seed=0", "log_every=3"))]
    assert list(made.fill(again, measure, str, at_once=1)) == ["a, seed 0", "a, seed 1", "b, seed 0"]
    assert ran == ["a, seed 0", "a, seed 1", "a, seed 1", "b, seed 0"]
    keys = {name: row["key"] for name, row in made.finished().items()}
    assert keys["a, seed 0"] == keys["b, seed 0"]  # the logging interval changes no result


def test_no_cell_starts_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(grid, "QUICK", False)
    ran, cancelled, shutdown = [], Event(), ThreadPoolExecutor.shutdown

    def measure(cell: Cell) -> dict[str, Any]:
        ran.append(cell.name)
        if cell.name == "b":
            raise SystemExit("b failed")
        if cell.name > "b":
            cancelled.wait(30)
        return {}

    def cancelling(pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shutdown(pool, wait=False, cancel_futures=cancel_futures)
        cancelled.set()
        shutdown(pool, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", cancelling)

    cells = [Cell(name, ()) for name in "abcdefgh"]
    with pytest.raises(SystemExit, match="b failed"):
        Grid("some", "some").fill(cells, measure, str, at_once=1)
    assert ran in (["a", "b"], ["a", "b", "c"])  # one may have started before the failure was noticed
    assert "a" in Grid("some", "some").finished()


def test_seeds_belong_together() -> None:
    rows: dict[str, Any] = {"a, T=4, seed 0": {"n": 1}, "b, seed 0": {"n": 2}, "a, T=4, seed 1": {"n": 3}}
    assert by_seed(rows) == {"a, T=4": [{"n": 1, "seed": 0}, {"n": 3, "seed": 1}], "b": [{"n": 2, "seed": 0}]}
    assert (spread([1.0, 3.0]), spread([2.5], 2), spread([])) == ("2.0 ± 1.4", "2.50 ± 0.00", "-")


def copied(*solved: tuple[float, float], wall: float, **more: Any) -> dict[str, Any]:
    curve = [[length, 0, at] for length, at in solved]
    return {"solved": solved[-1][0], "curve": curve, "wall_s": wall, "cosine": None, "probes": [], **more}


def test_lengths_are_compared_at_equal_symbols_and_at_equal_seconds() -> None:
    rows = {
        "copy, T=4, truncated, seed 0": copied((9, 3.0), (11, 5.0), wall=10.0),
        "copy, T=4, critic, seed 0": copied((11, 4.0), (17, 9.0), (22, 15.0), wall=20.0),
    }
    ours = copying.lengths(rows)[1]
    assert (ours[3], ours[5], ours[8]) == ("22.0 ± 0.0", "17.0 ± 0.0", "4 / 36")
    (first, *_) = copying.bars(rows)
    assert first == {"bar": "copy, T=4: critic over truncated", "value": 2.0, "goal": 2.0, "holds": True}


def read(bits: float, *curve: tuple[float, float]) -> dict[str, Any]:
    return {"bits": bits, "accuracy": 0.5, "steps": 10, "wall_s": 4.0, "curve": [[0, at, b, 0.5] for at, b in curve]}


def test_share_of_the_distance_depends_on_the_window() -> None:
    bits = {
        "seqmnist": {"T=8, truncated": (3.0, 3.2), "T=40, truncated": (2.0, 2.2), "T=8, critic": (1.6, 1.6)},
        "ptb": {"T=8, truncated": (2.0, 2.2), "T=40, truncated": (2.0, 2.1), "T=8, critic": (1.9, 1.9)},
    }
    rows = {
        f"{task}, {method}, seed {seed}": read(value, (1.0, 3.0))
        for task, groups in bits.items() for method, values in groups.items() for seed, value in enumerate(values)
    }  # fmt: skip
    found = {line["bar"]: (line["value"], line["holds"]) for line in ptb.bars(rows)}
    assert found == {
        "ptb: truncated(8) - truncated(40), bits, over the seeds' spread of 0.1414": (0.05, False),
        "seqmnist: truncated(8) - truncated(40), bits, over the seeds' spread of 0.1414": (1.0, True),
        "seqmnist: share of that distance closed by critic(8)": (1.5, True),
    }


def test_a_record_names_all_machines_that_rows_were_made_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(grid, "QUICK", False)

    def on(machine: str, *cells: Cell) -> str:
        monkeypatch.setattr(grid, "environment", lambda: {"machine": machine})
        made = Grid("some", "some")
        made.keep(made.fill(cells, lambda cell: {"value": 1}, str, at_once=1), [])
        return str(json.loads((tmp_path / "some.json").read_text())["environment"]["machine"])

    one, two = Cell("a, seed 0", ("seed=0",)), Cell("a, seed 1", ("seed=1",))
    assert on("first", one) == "first"
    assert on("second", one) == "first"  # nothing was measured there
    assert on("second", one, two) == "first and second"
    assert on("first", one, two, Cell("b", ("seed=2",))) == "first and second"


def test_a_run_lies_in_a_folder_that_hydra_takes() -> None:
    cell = Cell("mnist, 3 cuts, critic, true targets (mix 1), p=0.1, seed 0", ())
    assert Grid("some", "some").folder(cell).name == "mnist-3cuts-critic-truetargetsmix1-p0.1-seed0"


def test_the_rate_of_online_is_that_of_the_best_run_that_ended() -> None:
    trials = [online.Cell("copy", "truncated", rate, 100, tuning=True) for rate in ("1e-3", "3e-3", "1e-2")]
    rows = {trials[0].name: {"bits": 0.9}, trials[1].name: {"bits": 0.4}, trials[2].name: {"failed": "DivergedError"}}
    assert online.best(trials, rows) is trials[1]
    assert len({trial.name for trial in trials}) == 3


def test_bars_of_online_are_shares_of_the_gap() -> None:
    right = {"truncated": 0.5, "full": 0.9, "online": 0.7, "online + critic": 0.85, "critic": 0.8}
    ahead = {0: 0.01, 1: -0.01}  # by seed, of the critic: their mean is what counts
    rows = {
        f"delayed label | {arm}, seed {seed}": {"accuracy": each + (ahead[seed] if arm == "critic" else 0.0)}
        for arm, each in right.items()
        for seed in (0, 1)
    }
    shares = [bar["value"] for bar in online.bars(rows)]
    assert shares == [0.75, 0.875, 5.0, 5.0]  # 0.15 of 0.2, 0.35 of 0.4; 0.05 over 0.02 / sqrt(2) / sqrt(2); points


def test_every_method_of_online_reads_as_many_symbols() -> None:
    """Methods of a task take as many optimizer steps, too, unless it steps after each window."""
    for task, settings in online.TASKS.items():
        steps = {arm: online.Cell(task, arm, "1e-3", 0) for arm in online.ARMS}
        spans = {"immediate": 1, "full": settings.length, "checkpointed": settings.length}
        read = {cell.steps * spans.get(arm, settings.window) for arm, cell in steps.items()}
        assert read == {settings.sequences * settings.length}
        if not settings.each_window:
            assert {cell.steps // cell.accumulate for cell in steps.values()} == {settings.sequences}


def test_a_setting_that_was_added_later_counts_only_if_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, flipped = recipe("data=mnist"), recipe("data=mnist", "data.flip=true")
    assert plain != flipped
    assert recipe("data=mnist", "data.flip=false") == plain
    monkeypatch.setattr(runs, "ADDED", {})
    assert recipe("data=mnist") != plain
    assert recipe("data=mnist", "data.flip=true") != flipped  # its crop_padding is off
