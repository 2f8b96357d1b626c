"""Runs of the methods in depth: choose a recipe by validation, then train and measure it on the test split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.grid import QUICK, Grid, Row
from benchmarks.harness.methods import FOLDERS, TASKS, Overrides, folder, method, settings
from benchmarks.harness.runs import Failed, train
from workers.cli.evaluate import evaluate
from workers.tracking.run import METRICS, read_metrics

TUNING_SEED = 100
TUNING = Grid("depth-tuning", "depth_tuning", {"seed": TUNING_SEED})
TRIED, BEYOND = (1, 0) if QUICK else (4, 2)
SPEEDS = Path("outputs/bench-depth-speed")
ALONE = ("time=truncated", "transport=local", "launch=threads", "launch.torch_threads=1", "checkpoint.every=null")


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        label: "task, method" in the results, and what else distinguishes the run.
        task, method: their names.
        recipe: the settings that were chosen for the method.
        seed, lag: of the run; `lag` None: no late gradients, or a free run.
        more: further settings, which win over the others.
    """

    label: str
    task: str
    method: str
    recipe: Overrides
    seed: int
    lag: int | None = None
    steps: int | None = None
    more: Overrides = ()

    @property
    def name(self) -> str:
        """The name in the results."""
        return f"{self.label}, seed {self.seed}"

    @property
    def total_steps(self) -> int:
        """Steps of the run."""
        return 12 if QUICK else self.steps or TASKS[self.task].steps

    @property
    def overrides(self) -> Overrides:
        """The settings, as words of a command."""
        task = TASKS[self.task]
        return (
            *task.overrides, *method(self.method, task.family), *self.recipe, *ALONE, *late(self.task, self.lag),
            f"steps={self.total_steps}", f"seed={self.seed}", "log_every=50",
            f"evaluate.every={max(1, self.total_steps // 8)}", f"evaluate.windows={4 if QUICK else 50}", *self.more,
        )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A short run with one of the settings that are tried."""

    task: str
    method: str
    setting: Overrides
    lag: int | None = None

    @property
    def rate(self) -> float:
        """The learning rate of the stages."""
        return float(self.setting[0].partition("=")[2])

    @property
    def name(self) -> str:
        """The name in the results."""
        at = "" if self.lag is None else f", lag {self.lag}"
        short = " ".join(self.setting).replace("predictor.depth.", "predictor.").replace("optimizer.", "")
        return f"{self.task}, {self.method}{at}, {short}"

    @property
    def overrides(self) -> Overrides:
        """The settings, as words of a command."""
        task = TASKS[self.task]
        steps = 8 if QUICK else task.tuning_steps
        return (
            *task.overrides, *method(self.method, task.family), *self.setting, *ALONE, *late(self.task, self.lag),
            f"steps={steps}", f"seed={TUNING_SEED}", "log_every=50", "evaluate.every=null",
            f"evaluate.windows={4 if QUICK else 100}",
        )  # fmt: skip


def late(task: str, lag: int | None) -> Overrides:
    """Return the settings for targets, or gradients per edge, that are `lag` steps late on all edges."""
    if lag is None:
        return ()
    edges = next(int(part.partition("=")[2]) for part in TASKS[task].overrides if part.startswith("stages=")) - 1
    return (f"depth.lag={lag}", f"depth.max_in_flight={max(4, lag * edges, edges, lag + 1)}")


def lag_of(name: str, lag: int) -> int | None:
    """Return the lag of a method; None if its gradients cannot be late."""
    return lag if name in ("DNI", "cDNI", "critic", "delayed") else None


def tune(wanted: list[tuple[str, str, int | None]]) -> dict[tuple[str, str], Overrides]:
    """Return the best setting of each (task, method) at a lag, by the validation figure.

    Four are tried. If the best rate is the largest or the smallest, twice or half of it is tried too, at most `BEYOND`
    times, so that no method loses by the choice of its four.
    """
    trials = {key: [Trial(task, name, setting, lag) for setting in settings(name, TASKS[task].family)[:TRIED]]
              for key in wanted for task, name, lag in [key]}  # fmt: skip
    rows = _tried([trial for mine in trials.values() for trial in mine])
    for _ in range(BEYOND):
        more = {key: beyond(mine, best(mine, rows)) for key, mine in trials.items()}
        rows |= _tried([trial for trial in more.values() if trial is not None])
        for key, trial in more.items():
            trials[key] += [] if trial is None else [trial]
    return {(task, name): best(trials[task, name, lag], rows).setting for task, name, lag in wanted}


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


def _tried(trials: list[Trial]) -> dict[str, Row]:
    rows = TUNING.fill(trials, try_out, lambda row: row.get("failed") or f"{row['score']:.3f}")
    TUNING.keep({**TUNING.finished(), **rows}, [])
    return rows


def try_out(trial: Trial) -> Row:
    """Return its validation figure after the last step: bits per label, or error in percent."""
    try:
        train(TUNING.folder(trial), *trial.overrides, quiet=True)
    except Failed as error:
        return failed(error, trial.name)
    record = validated(TUNING.folder(trial))[-1]
    return {"score": figure(record, trial.task), "bits": record["bits_per_label"], "accuracy": record["accuracy"]}


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
        "test": 100 * tested["error"] if TASKS[cell.task].unit == "error" else tested["bits_per_label"],
        "task": cell.task, "bits": tested["bits_per_label"], "accuracy": tested["accuracy"],
        "data": summary["data"]["name"],
        "wall_s": summary["wall_s"], "cosine": [stage["predictor_cosine"] for stage in stages[:-1]],
        "staleness": [stage["staleness_mean"] for stage in stages[:-1]],
        "curve": [[r["step"], figure(r, cell.task)] for r in validated(at)],
    }  # fmt: skip


def step_time(cell: Cell) -> Row:
    """Return the milliseconds of a training step, from a short run alone on the machine."""
    steps = 8 if QUICK else max(40, cell.total_steps // 20)
    at = SPEEDS / cell.name.replace(", ", "-").replace(" ", "")
    summary = train(at, *cell.overrides, f"steps={steps}", "evaluate.every=null", "evaluate.windows=1", quiet=True)
    return {"ms": 1000 / min(stage["steps_per_s"] for stage in summary["stage"])}


def failed(error: Failed, name: str) -> Row:
    """A run that diverged is a result; another failure ends the benchmark."""
    if "DivergedError" not in str(error):
        raise SystemExit(f"{name}: {error}")
    return {"failed": str(error)}


def figure(record: dict[str, Any], task: str) -> float:
    """What the task reports, of a validation pass."""
    if TASKS[task].unit == "error":
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
