"""Runs of the methods in depth: choose a recipe by validation, then train and measure it on the test split."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness.cells import DEPTH, Cell, Comparison, Trial, short_warmup
from benchmarks.harness.grid import QUICK, Grid, Row
from benchmarks.harness.methods import FOLDERS, Overrides, Task, folder
from benchmarks.harness.runs import Failed, train
from workers.cli.evaluate import evaluate
from workers.tracking.run import METRICS, read_metrics

TRIED, BEYOND = (1, 0) if QUICK else (4, 2)
SPEEDS = Path("outputs/bench-depth-speed")


def tune(wanted: list[tuple[str, str]], lag: int, of: Comparison = DEPTH) -> dict[tuple[str, str], Overrides]:
    """Return the best setting of each (task, method) at a lag, by the validation figure.

    Four are tried. If the best rate is the largest or the smallest, twice or half of it is tried too, at most `BEYOND`
    times, so that no method loses by the choice of its four.
    """
    trials = {
        (task, name): [
            Trial(task, name, setting, of.lag_of(name, lag), of)
            for setting in of.settings(name, of.tasks[task].family)[:TRIED]
        ]
        for task, name in wanted
    }
    rows = _tried([trial for mine in trials.values() for trial in mine], of)
    for _ in range(BEYOND):
        more = {key: beyond(mine, best(mine, rows)) for key, mine in trials.items()}
        rows |= _tried([trial for trial in more.values() if trial is not None], of)
        for key, trial in more.items():
            trials[key] += [] if trial is None else [trial]
    return {key: best(mine, rows).setting for key, mine in trials.items()}


def best(trials: list[Trial], rows: dict[str, Row]) -> Trial:
    """Return the trial with the lowest figure."""
    return min(trials, key=lambda trial: rows[trial.name].get("score", float("inf")))


def beyond(trials: list[Trial], chosen: Trial) -> Trial | None:
    """Return the best trial with a rate beyond all tried ones, if its own is the first or the last of them."""
    rates = sorted(trial.rate for trial in trials)
    if rates[0] < chosen.rate < rates[-1]:
        return None
    rate = chosen.rate * (2 if chosen.rate == rates[-1] else 0.5)
    return replace(chosen, setting=(f"optimizer.learning_rate={rate:g}", *chosen.setting[1:]))


def _tried(trials: list[Trial], of: Comparison) -> dict[str, Row]:
    rows = of.tuning.fill(trials, try_out, lambda row: row.get("failed") or f"{row['score']:.3f}")
    of.tuning.keep({**of.tuning.finished(), **rows}, [])
    return rows


def try_out(trial: Trial) -> Row:
    """Return its validation figure after the last step: bits per label, or error in percent."""
    at = trial.of.tuning.folder(trial)
    try:
        train(at, *trial.overrides, quiet=True)
    except Failed as error:
        return failed(error, trial.name)
    record = validated(at)[-1]
    score = figure(record, trial.of.tasks[trial.task])
    return {"score": score, "bits": record["bits_per_label"], "accuracy": record["accuracy"]}


def measure(grid: Grid, cell: Cell) -> Row:
    """Train, then measure the parameters of the last step on the test split, once."""
    at = grid.folder(cell)
    try:
        summary = train(at, *cell.overrides, quiet=True)
    except Failed as error:
        return failed(error, cell.name)
    tested = evaluate(at, "test", "last")
    stages: list[dict[str, Any]] = summary["stage"]
    return {
        "test": 100 * tested["error"] if cell.of.tasks[cell.task].unit == "error" else tested["bits_per_label"],
        "task": cell.task, "bits": tested["bits_per_label"], "accuracy": tested["accuracy"],
        "data": summary["data"]["name"],
        "wall_s": summary["wall_s"], "cosine": [stage["predictor_cosine"] for stage in stages[:-1]],
        "staleness": [stage["staleness_mean"] for stage in stages[:-1]],
        "curve": [[r["step"], figure(r, cell.of.tasks[cell.task])] for r in validated(at)],
    }  # fmt: skip


def step_time(cell: Cell) -> Row:
    """Return the milliseconds of a training step, from a short run alone on the machine."""
    steps = 8 if QUICK else max(40, cell.total_steps // 20)
    at = SPEEDS / cell.name.replace(", ", "-").replace(" ", "")
    summary = train(at, *cell.overrides, f"steps={steps}", "evaluate.every=null", "evaluate.windows=1", quiet=True)
    return {"ms": 1000 / min(stage["steps_per_s"] for stage in summary["stage"])}


#: Steps of the two runs by which processor time is measured, of families whose steps are long.
_COMPUTE_STEPS = {"gpt": (40, 160), "text": (50, 250)}


def compute(cell: Cell) -> Row:
    """Return the milliseconds of processor time of a training step of all stages: what a longer run takes beyond a
    shorter one.

    Of three runs of each length the cheapest counts: other programs only make a run dearer.
    """
    lengths = (4, 8) if QUICK else _COMPUTE_STEPS.get(cell.of.tasks[cell.task].family, (100, 900))
    times = 1 if QUICK else 3
    taken = {steps: min(_processor_s(cell, steps) for _ in range(times)) for steps in lengths}
    return {"ms": 1000 * (taken[lengths[1]] - taken[lengths[0]]) / (lengths[1] - lengths[0])}


def _processor_s(cell: Cell, steps: int) -> float:
    """Return the seconds of processor time of a run of so many steps, with all its processes."""
    warmup = short_warmup(cell.of.tasks[cell.task], short=True)
    quiet = (f"steps={steps}", "evaluate.every=null", "evaluate.windows=1", *warmup)
    before = os.times()
    train(SPEEDS / cell.name.replace(", ", "-").replace(" ", ""), *cell.overrides, *quiet, quiet=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def failed(error: Failed, name: str) -> Row:
    """A run that diverged is a result; another failure ends the benchmark."""
    if "DivergedError" not in str(error):
        raise SystemExit(f"{name}: {error}")
    return {"failed": str(error)}


def figure(record: dict[str, Any], task: Task) -> float:
    """What the task reports, of a validation pass."""
    if task.unit == "error":
        return 100 * (1 - float(record["accuracy"]))
    return float(record["bits_per_label"])


def validated(at: Any) -> list[dict[str, Any]]:
    """The validation passes of a run."""
    return [record for record in read_metrics(at / METRICS) if record["kind"] == "valid"]


def need_data(families: set[str]) -> None:
    """Say what is missing before anything is run."""
    for family in sorted(families):
        if not folder(family).is_dir():
            raise SystemExit(f"no such folder: {folder(family)}; set {FOLDERS[family][0]} to the folder with the data")
