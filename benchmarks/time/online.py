"""Exact traces of the past (time=online) against other methods in time, on tasks with labels long after their causes.

A residual stack of three LRU blocks, one process. All methods read the same symbols: a method with longer windows takes
fewer updates. Each method tries the same rates on seed 100, for a quarter of the symbols, and the best one by
validation trains on other seeds; the last parameters are measured on the test split, or on fresh sequences of tasks
that are drawn.

- immediate: every step is a window of its own, and the weights stand still for T of them, so that no gradient crosses
  a step.
- frozen below: truncated, but all layers below the top recurrent one keep their first weights.
- full, checkpointed: one window is one sequence. They differ in memory and time alone.

DNI_MNIST and DNI_PTB name the folders of the data. Finished cells are read from benchmarks/results/online.json and
online_tuning.json, so an interrupted benchmark continues. QUICK=1 takes few steps of small models; they stay in
outputs/bench-online/quick/.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, spread
from benchmarks.harness.methods import FOLDERS, Overrides, folder
from benchmarks.harness.runs import Failed, train
from benchmarks.harness.tuning import failed
from workers.cli.evaluate import evaluate

SEEDS = (0,) if QUICK else (0, 1, 2)
TUNING_SEED = 100
RATES = ("3e-3",) if QUICK else ("1e-3", "3e-3", "1e-2")
BATCH, UNITS = (8, 16) if QUICK else (50, 128)
GRID = Grid("online", "online", {"batch": BATCH, "units": UNITS})
TUNING = Grid("online-tuning", "online_tuning", {"seed": TUNING_SEED})


@dataclass(frozen=True)
class Task:
    """Data, with sequences of `length` steps in windows of `window`.

    Args:
        overrides: settings, as words of a command.
        steps: time steps of a stream in a run.
        heads: labels that a critic models: the next ones that count; None: the next 8, which all count.
        family: of its files; None: it is drawn.
        test: the split that is measured at the end.
    """

    overrides: Overrides
    length: int
    window: int
    steps: int
    heads: int | None = 1
    family: str | None = None
    test: str = "test"


_LATE = "benchmarks.time.late_labels."
_DIGITS = ("data=seqmnist", f"data._target_={_LATE}Digits", "data.sequence=null")
TASKS = {
    "copy": Task(("data=copy", "data.length=45"), 48, 8, 400_000, heads=8, test="valid"),
    "delayed label": Task(("data=copy", f"data._target_={_LATE}DelayedLabel", "data.length=112", "data.sequence=null"),
                          112, 14, 400_000),
    "MNIST, 98 x 8": Task((*_DIGITS, "data.pixels=8"), 98, 14, 500_000, family="mnist"),
    "sequential MNIST": Task((*_DIGITS, "data.pixels=1"), 784, 28, 2_000_000, family="mnist"),
    "permuted MNIST": Task((*_DIGITS, "data.pixels=1", "data.permuted=true"), 784, 28, 2_000_000, family="mnist"),
    "text": Task(("data=ptb", "data.sequence=256"), 256, 32, 100_000, heads=None, family="text"),
}  # fmt: skip

_FROZEN = ("time=truncated", "model._target_=benchmarks.time.frozen.FrozenBelow")
ARMS: dict[str, Overrides] = {
    "truncated": ("time=truncated",),
    "immediate": ("time=truncated",),
    "frozen below": _FROZEN,
    "online": ("time=online",),
    "online, critic": ("time=online", "time.future=synthetic"),
    "critic": ("time=synthetic",),
    "full": ("time=full",),
    "checkpointed": ("time=checkpointed",),
}


@dataclass(frozen=True)
class Cell:
    """One run; `tuning`: a short one, on the seed that chooses the rate."""

    task: str
    arm: str
    rate: str
    seed: int
    tuning: bool = False

    @property
    def name(self) -> str:
        """The run's name in the results."""
        short = f"{self.task.replace(', ', ' ')} | {self.arm.replace(', ', ' + ')}"
        return f"{short}, rate {self.rate}" if self.tuning else f"{short}, seed {self.seed}"

    @property
    def window(self) -> int:
        """Time steps of an update's window."""
        task = TASKS[self.task]
        return {"immediate": 1, "full": task.length}.get(self.arm, task.window)

    @property
    def steps(self) -> int:
        """Windows of the run."""
        task = TASKS[self.task]
        span = task.length if self.arm in ("full", "checkpointed") else self.window
        return max(2, (2 * task.length if QUICK else task.steps // (4 if self.tuning else 1)) // span)

    @property
    def overrides(self) -> Overrides:
        """The run's settings as typed."""
        task = TASKS[self.task]
        path = () if task.family is None else (f"data.path={folder(task.family)}",)
        return (
            *task.overrides, *path, "model=residual", f"model.units={UNITS}", "model.layers=3", "model.smallest=0.9",
            *ARMS[self.arm], *self._critic(), f"data.window={self.window}", f"data.batch={BATCH}", "depth=backprop",
            *((f"optimizer.accumulate={task.window}",) if self.arm == "immediate" else ()),
            f"optimizer.learning_rate={self.rate}", "stages=1", "transport=local", "launch=threads",
            "launch.torch_threads=1", f"steps={self.steps}", f"seed={self.seed}", "log_every=50",
            f"evaluate.every={'null' if self.tuning or QUICK else max(1, self.steps // 8)}",
            f"evaluate.windows={-(-task.length // self.window) * (1 if QUICK else 20)}", "checkpoint.every=null",
        )  # fmt: skip

    def _critic(self) -> Overrides:
        task = TASKS[self.task]
        if "critic" not in self.arm:
            return ()
        if task.heads is None:
            return ("predictor/time=critic", "predictor.time.future_labels=8")
        reach = (f"predictor.time.future_labels={task.length}", f"predictor.time.counted_labels={task.heads}")
        return ("predictor/time=critic", *reach)


def pairs() -> list[tuple[str, str]]:
    """Return the tasks and methods of the benchmark; QUICK=1: one method of most tasks, and all of one."""
    if QUICK:
        return [("delayed label", arm) for arm in ARMS] + [
            (t, "online, critic") for t in ("copy", "MNIST, 98 x 8", "text")
        ]
    return [(task, arm) for task in TASKS for arm in ARMS]


def main() -> None:
    """Choose the rates, run what is not finished, print the table and the bars."""
    for family in sorted({TASKS[task].family or "" for task, _ in pairs()} - {""}):
        if not folder(family).is_dir():
            raise SystemExit(f"no such folder: {folder(family)}; set {FOLDERS[family][0]} to the folder with the data")
    rates = chosen(pairs())
    cells = [Cell(*pair, rates[pair], seed) for pair in pairs() for seed in SEEDS]
    rows = GRID.fill(cells, measure, lambda row: row.get("failed") or f"{row['bits']:.3f} bits, {row['wall_s']:.0f} s")
    table = Table("task", "method", "bits per label", "accuracy", "updates", "seconds", "MB")
    for line in lines(rows):
        table.add_row(*line)
    Console(width=140).print(table)
    GRID.keep(rows, bars(rows))


def chosen(wanted: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the rate of each task and method with the lowest validation bits; all of them try the same ones."""
    if len(RATES) == 1:
        return dict.fromkeys(wanted, RATES[0])
    trials = {pair: [Cell(*pair, rate, TUNING_SEED, tuning=True) for rate in RATES] for pair in wanted}
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
        "updates": summary["steps"] // (TASKS[cell.task].window if cell.arm == "immediate" else 1),
        "wall_s": summary["wall_s"], "mb": summary["stage"][0]["peak_rss_mb"],
    }  # fmt: skip


def lines(rows: dict[str, Row]) -> list[list[str]]:
    """Return mean and spread over the seeds that did not diverge."""
    found = []
    for group, members in by_seed(rows).items():
        task, _, arm = group.partition(" | ")
        ended = [row for row in members if "failed" not in row]
        if not ended:
            found.append([task, arm, "diverged", "", "", "", ""])
            continue
        means = {key: statistics.mean(row[key] for row in ended) for key in ("accuracy", "updates", "wall_s", "mb")}
        found.append([
            task, arm, spread([row["bits"] for row in ended], 3), f"{means['accuracy']:.1%}",
            f"{means['updates']:,.0f}", f"{means['wall_s']:.0f}", f"{means['mb']:.0f}",
        ])  # fmt: skip
    return found


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return the share of the gap from truncated to full backpropagation that other methods close, in bits."""
    groups = {group: [row["bits"] for row in members if "bits" in row] for group, members in by_seed(rows).items()}
    bits = {group: statistics.mean(values) for group, values in groups.items() if values}
    found = []
    for task in dict.fromkeys(group.partition(" | ")[0] for group in bits):
        short, long = bits.get(f"{task} | truncated"), bits.get(f"{task} | full")
        if short is None or long is None:
            continue
        for arm in ("online", "online + critic", "critic", "frozen below", "immediate"):
            if short != long and (ours := bits.get(f"{task} | {arm}")) is not None:
                name = f"{task}: share of the gap from truncated to full closed by {arm}"
                found.append(bar(name, (short - ours) / (short - long), None, None))
    return found


if __name__ == "__main__":
    main()
