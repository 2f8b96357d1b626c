"""Exact traces of the past (time=online) against other methods in time, on tasks with labels long after their causes.

All methods read the same symbols and, unless a task says otherwise, take one optimizer step for each batch of
sequences, so that they differ in their gradients alone. Each method tries the same rates on seed 100, for a quarter of
the symbols, and the best one by validation trains on other seeds. Tasks of 784 steps take the rates of the one of 98.
The last parameters are measured on the test split, or on fresh sequences of tasks that are drawn.

- immediate: every step is a window of its own, so that no gradient crosses a step.
- frozen below: truncated, but all layers below the top recurrent one keep their first weights.
- full, checkpointed: one window is one sequence. They differ in memory and time alone.

DNI_MNIST names the folder of the data. Finished cells are read from benchmarks/results/online.json and
online_tuning.json, so an interrupted benchmark continues; TASK="delayed label" runs this task alone. QUICK=1 takes few
steps of small models; they stay in outputs/bench-online/quick/.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, errors_ahead, spread
from benchmarks.harness.methods import FOLDERS, folder
from benchmarks.harness.runs import Failed, train
from benchmarks.harness.tuning import failed
from benchmarks.time.online_runs import ARMS, BATCH, MAIN, TASKS, TUNING_SEED, UNITS, Cell
from workers.cli.evaluate import evaluate

RATES = ("3e-3",) if QUICK else ("2e-3", "4e-3", "8e-3")
GRID = Grid("online", "online", {"batch": BATCH, "units": UNITS})
TUNING = Grid("online-tuning", "online_tuning", {"seed": TUNING_SEED})


def pairs() -> list[tuple[str, str]]:
    """Return the tasks and methods of the benchmark; QUICK=1: one method of most tasks, and all of one."""
    if QUICK:
        others = ("copy, one layer", "copy, one layer, each window", "sequential MNIST")
        return [("MNIST, 98 x 8", arm) for arm in ARMS] + [(task, "online") for task in others]
    only = os.environ.get("TASK", "")
    return [(task, arm) for task, settings in TASKS.items() for arm in settings.arms if task == (only or task)]


def main() -> None:
    """Choose the rates, run what is not finished, print the table and the bars."""
    for family in sorted({TASKS[task].family or "" for task, _ in pairs()} - {""}):
        if not folder(family).is_dir():
            raise SystemExit(f"no such folder: {folder(family)}; set {FOLDERS[family][0]} to the folder with the data")
    rates = chosen([(TASKS[task].rates_of or task, arm) for task, arm in pairs()])
    cells = [
        Cell(task, arm, rates[TASKS[task].rates_of or task, arm], seed)
        for task, arm in pairs()
        for seed in TASKS[task].seeds
    ]
    GRID.fill(cells, measure, lambda row: row.get("failed") or f"{row['bits']:.3f} bits, {row['wall_s']:.0f} s")
    rows = GRID.finished()
    table = Table(*HEADS)
    for line in lines(rows):
        table.add_row(*line)
    Console(width=140).print(table)
    GRID.keep(rows, bars(rows))


def chosen(wanted: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the rate of each task and method with the lowest validation bits; all of them try the same ones."""
    if len(RATES) == 1:
        return dict.fromkeys(wanted, RATES[0])
    trials = {pair: [Cell(*pair, rate, TUNING_SEED, tuning=True) for rate in RATES] for pair in dict.fromkeys(wanted)}
    cells = [cell for mine in trials.values() for cell in mine]
    rows = TUNING.fill(cells, try_out, lambda row: row.get("failed") or f"{row['bits']:.3f} bits")
    return {pair: best(mine, rows).rate for pair, mine in trials.items()}


def best(trials: list[Cell], rows: dict[str, Row]) -> Cell:
    """Return the trial with the fewest validation bits. A run that diverged has none."""
    return min(trials, key=lambda trial: rows[trial.name].get("bits", float("inf")))


def try_out(cell: Cell) -> Row:
    """Train with one rate, and return the validation bits of the last parameters."""
    return _run(TUNING, cell, "valid")


def measure(cell: Cell) -> Row:
    """Train, and measure the last parameters on the test split; QUICK=1: on a part of the validation split."""
    return _run(GRID, cell, TASKS[cell.task].test)


def _run(grid: Grid, cell: Cell, split: str) -> Row:
    at = grid.folder(cell)
    try:
        summary = train(at, *cell.overrides, quiet=True)
    except Failed as error:
        return failed(error, cell.name)
    found = summary["valid"] if QUICK or split == "valid" else evaluate(at, split, "last")
    return {
        "bits": found["bits_per_label"], "accuracy": found["accuracy"], "rate": cell.rate,
        "updates": summary["steps"] // cell.accumulate,
        "wall_s": summary["wall_s"], "mb": summary["stage"][0]["peak_rss_mb"],
    }  # fmt: skip


HEADS = ["task", "method", "bits per label", "accuracy, %", "by seed", "updates", "seconds", "MB"]


def lines(rows: dict[str, Row]) -> list[list[str]]:
    """Return mean and spread over the seeds that did not diverge, in the order of tasks and methods."""
    found, groups = [], by_seed(rows)
    for task, arm in ((task.replace(", ", " "), arm.replace(", ", " + ")) for task in TASKS for arm in ARMS):
        members = groups.get(f"{task} | {arm}", [])
        ended = [row for row in members if "failed" not in row]
        if members and not ended:
            found.append([task, arm, "diverged", *[""] * 5])
        if not ended:
            continue
        means = {key: statistics.mean(row[key] for row in ended) for key in ("updates", "wall_s", "mb")}
        right = [100 * row["accuracy"] for row in ended]
        found.append([
            task, arm, spread([row["bits"] for row in ended], 3), spread(right, 1),
            " ".join(f"{each:.1f}" for each in right), f"{means['updates']:,.0f}", f"{means['wall_s']:.0f}",
            f"{means['mb']:.0f}",
        ])  # fmt: skip
    return found


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return what traces with a critic close of the gap in accuracy to full backpropagation, and how far they are."""
    found = []
    for task in (task.replace(", ", " ") for task in TASKS):
        right = {arm: accuracies(rows, task, arm) for arm in (each.replace(", ", " + ") for each in MAIN)}
        if not all(right.values()):
            continue
        whole, ours = statistics.mean(right["full"]), statistics.mean(right["online + critic"])
        for start, goal in (("online", 0.75), ("truncated", 0.85)):
            share = closed(statistics.mean(right[start]), ours, whole)
            found.append(bar(f"{task}: share of the gap from {start} to full that online + critic closes", share, goal,
                             None if share is None else share >= goal))  # fmt: skip
        if len(right["critic"]) > 1:
            ahead = errors_ahead(right["online + critic"], right["critic"])  # the critic's accuracies below ours
            found.append(bar(f"{task}: online + critic ahead of the critic, in standard errors", ahead, 2.0, ahead > 2))
        found.append(bar(f"{task}: points of accuracy behind full", 100 * (whole - ours), 1.0, whole - ours <= 0.01))
    return found or [bar("no task is finished", None, None, None)]


def accuracies(rows: dict[str, Row], task: str, arm: str) -> list[float]:
    """Return the accuracies of the seeds that did not diverge."""
    return [row["accuracy"] for row in by_seed(rows).get(f"{task} | {arm}", []) if "accuracy" in row]


def closed(start: float, ours: float, end: float) -> float | None:
    """Return the share of the way from `start` to `end` that ours has gone; None if the two are level."""
    return (ours - start) / (end - start) if end != start else None


if __name__ == "__main__":
    main()
