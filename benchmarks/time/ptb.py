"""Real sequences: Penn Treebank characters and sequential MNIST, by window and method, with equal symbols per update.

One LSTM layer of 128 units; every update sees 1,280 symbols for every T (B = 1,280 / T). Training stops when validation
no longer improves, or at a limit that is the same for all; the best checkpoint is measured on the test split once. The
first cells, truncated(40) against truncated(8), show whether T matters on a task at all.

DNI_PTB and DNI_MNIST name the folders of the data. Finished cells are read from benchmarks/results/ptb.json, so an
interrupted benchmark continues. QUICK=1 takes few steps; they stay in outputs/bench-ptb/quick/.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, spread
from benchmarks.harness.runs import Failed, train
from workers.cli.evaluate import evaluate
from workers.tracking.run import METRICS, read_metrics

SYMBOLS = 1280  # per update
SEEDS = (0,) if QUICK else (0, 1, 2)
GRID = Grid("ptb", "ptb", {"symbols": SYMBOLS})


@dataclass(frozen=True)
class Task:
    """Data, most steps, and the tuned settings of each method (on seed 100, by validation)."""

    overrides: tuple[str, ...]
    steps: int
    valid_windows: int
    tuned: dict[str, tuple[str, ...]]


TASKS = {
    "ptb": Task(
        ("data=ptb", f"data.path={os.environ.get('DNI_PTB', '../shared/data/ptb')}"),
        3900, 100,
        {
            "truncated": ("optimizer.learning_rate=8e-3",),
            "critic": ("optimizer.learning_rate=8e-3", "predictor.time.future_labels=16", "predictor.time.scale=0.1"),
            "plain": ("optimizer.learning_rate=8e-3", "predictor.time.scale=0.1"),
        },
    ),
    "seqmnist": Task(
        ("data=seqmnist", f"data.path={os.environ.get('DNI_MNIST', '../shared/data/mnist')}", "data.side=14"),
        6900, 250,
        {
            "truncated": ("optimizer.learning_rate=1e-3",),
            "critic": ("optimizer.learning_rate=2e-3", "predictor.time.future_labels=200"),
            "plain": ("optimizer.learning_rate=2e-3",),
        },
    ),
}  # fmt: skip
METHODS = {
    "truncated": ("time=truncated",),
    "critic": ("time=synthetic", "predictor=critic", "predictor.time.hidden=256"),
    "plain": ("time=synthetic", "predictor=mlp", "predictor.time.hidden=256"),
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    task: str
    window: int
    method: str
    seed: int

    @property
    def name(self) -> str:
        """The run's name in the results."""
        return f"{self.task}, T={self.window}, {self.method}, seed {self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The run's settings as typed."""
        task = TASKS[self.task]
        steps = 16 if QUICK else task.steps
        return (
            *task.overrides, *METHODS[self.method], *task.tuned[self.method], "stages=1", "transport=local",
            "model.layers=1", "model.units=128", f"data.window={self.window}", f"data.batch={SYMBOLS // self.window}",
            f"steps={steps}", f"evaluate.every={steps // 8}",
            f"evaluate.windows={50 if QUICK else task.valid_windows}", "evaluate.patience=3", "log_every=50",
            "checkpoint.every=null", "launch.torch_threads=1", f"seed={self.seed}",
        )  # fmt: skip


def plan() -> list[Cell]:
    """Return the cells; first those that show whether T matters."""
    if QUICK:
        return [Cell(task, 8, method, 0) for task in TASKS for method in ("truncated", "critic")]
    core = (("truncated", 8), ("truncated", 40), ("critic", 8), ("plain", 8))
    cells = [Cell(task, t, method, seed) for task in ("seqmnist", "ptb") for method, t in core for seed in SEEDS]
    rest = (("truncated", 5), ("truncated", 20), ("critic", 5))
    return cells + [Cell("ptb", t, method, seed) for method, t in rest for seed in SEEDS]


def main() -> None:
    """Run what is not finished, two at a time, print the table and the bars."""
    for task, folder in (("ptb", "DNI_PTB"), ("seqmnist", "DNI_MNIST")):
        path = Path(TASKS[task].overrides[1].partition("=")[2])
        if not path.is_dir():
            raise SystemExit(f"no such folder: {path}; set {folder} to the folder with the data of {task}")
    rows = GRID.fill(plan(), measure, lambda row: f"test {row['bits']:.3f} bits, {row['wall_s']:.0f} s")
    table = Table(*HEADS)
    for line in lines(rows):
        table.add_row(*line)
    Console(width=140).print(table)
    GRID.keep(rows, bars(rows))
    draw(rows, GRID.out / "curves.png" if QUICK else Path("docs/results/ptb.png"))


def measure(cell: Cell) -> Row:
    """Train one cell and measure its best checkpoint on the test split."""
    folder = GRID.folder(cell)
    try:
        summary = train(folder, *cell.overrides, quiet=True)
    except Failed as error:
        raise SystemExit(f"{cell.name}: {error}; see {folder}") from error
    tested = evaluate(folder, "test")
    curve = [
        [record["step"] * SYMBOLS, round(record["wall_s"], 2), record["bits_per_label"], record["accuracy"]]
        for record in read_metrics(folder / METRICS)
        if record["kind"] == "valid"
    ]
    return {
        "bits": tested["bits_per_label"], "accuracy": tested["accuracy"], "labels": tested["labels"],
        "best_step": tested["step"], "steps": summary["steps"], "ended": summary["ended"], "wall_s": summary["wall_s"],
        "cosine": summary["stage"][0]["time_cosine"], "curve": curve,
    }  # fmt: skip


STYLES = {"truncated": "-", "critic": "--", "plain": ":"}
HEADS = ["task", "T", "method", "test bits per label", "test accuracy", "by seed (bits)", "updates", "seconds",
         "valid. bits in truncated(8)'s seconds"]  # fmt: skip


def lines(rows: dict[str, Row]) -> list[list[str]]:
    """Return mean and spread over seeds, against symbols and against seconds."""
    found = []
    for group, members in sorted(by_seed(rows).items(), key=lambda item: order(item[0])):
        task, window, method = group.split(", ")
        clocks = [(row, rows.get(f"{task}, T=8, truncated, seed {row['seed']}")) for row in members]
        in_time = [reached(row, truncated["wall_s"]) for row, truncated in clocks if truncated]
        found.append([
            task, window.removeprefix("T="), method, spread([row["bits"] for row in members], 3),
            f"{statistics.mean(row['accuracy'] for row in members):.1%}",
            " ".join(f"{row['bits']:.3f}" for row in members),
            f"{statistics.mean(row['steps'] for row in members):,.0f}",
            f"{statistics.mean(row['wall_s'] for row in members):.0f}",
            spread([bits for bits in in_time if bits is not None], 3),
        ])  # fmt: skip
    return found


def order(group: str) -> tuple[str, str, int]:
    """Return the sort key: task, then method, then window."""
    task, window, method = group.split(", ")
    return task, "" if method == "truncated" else method, int(window.removeprefix("T="))


def reached(row: Row, seconds: float) -> float | None:
    """Return the best validation bits within `seconds`."""
    return min((bits for _, at, bits, _ in row["curve"] if at <= seconds), default=None)


def draw(rows: dict[str, Row], path: Path) -> None:
    """Draw validation bits against symbols and against seconds, means over seeds."""
    figure = Figure(figsize=(10, 3.2 * len(TASKS)), layout="constrained")
    axes = figure.subplots(len(TASKS), 2, squeeze=False)
    for group, members in sorted(by_seed(rows).items(), key=lambda item: order(item[0])):
        task, window, method = group.split(", ")
        points = [[statistics.mean(at) for at in zip(*point, strict=True)]
                  for point in zip(*(row["curve"] for row in members), strict=False)]  # fmt: skip
        for axis, column, unit in zip(axes[list(TASKS).index(task)], (0, 1), ("symbols", "seconds"), strict=True):
            axis.plot([p[column] for p in points], [p[2] for p in points], STYLES[method], label=f"{method}, {window}")
            axis.set(title=task, xlabel=unit, ylabel="validation bits per label")
    for row in axes:
        row[1].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return whether T matters, and the share of the gap from truncated(8) to truncated(40) that synthetic gradients
    close at T=8."""
    found = []
    bits = {group: [row["bits"] for row in members] for group, members in by_seed(rows).items()}
    for task in TASKS:
        short, long = bits.get(f"{task}, T=8, truncated"), bits.get(f"{task}, T=40, truncated")
        if short is None or long is None:
            continue
        gap = statistics.mean(short) - statistics.mean(long)
        noise = max(statistics.stdev(values) if len(values) > 1 else 0.0 for values in (short, long))
        found.append(bar(f"{task}: truncated(8) - truncated(40), bits, over the seeds' spread of {noise:.4f}", gap,
                         round(noise, 4), gap > noise))  # fmt: skip
        for method in ("critic", "plain"):
            ours = bits.get(f"{task}, T=8, {method}")
            if ours and gap > noise:
                closed = (statistics.mean(short) - statistics.mean(ours)) / gap
                found.append(bar(f"{task}: share of that distance closed by {method}(8)", closed, 0.5, closed >= 0.5))
    return found


if __name__ == "__main__":
    main()
