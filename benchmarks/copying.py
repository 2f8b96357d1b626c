"""How long a sequence is learned in how many symbols: the paper's copy and repeat copy tasks, by method and window.

One LSTM layer of 64 units; the curriculum lengthens the sequences whenever a batch is below 0.15 bits per symbol. Each
cell of the table is one task, window, method and seed; finished cells are read from benchmarks/results/copying.json, so
an interrupted benchmark goes on where it stopped. QUICK=1 takes few symbols; they stay in outputs/bench-copy/quick/.
"""

from __future__ import annotations

import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, bar, environment, write
from benchmarks.runs import Failed, recipe, train
from workers.summary import METRICS, read_metrics

QUICK = os.environ.get("QUICK") == "1"
OUT = Path("outputs/bench-copy") / ("quick" if QUICK else "full")
RECORD = (OUT if QUICK else RESULTS) / "copying.json"
LANE_STEPS = 400 if QUICK else 40_000
SEEDS = (0,) if QUICK else (0, 1, 2)
LOOKAHEAD = 32

#: What distinguishes the methods; the recipe is otherwise one for both tasks and every window.
METHODS: dict[str, tuple[str, ...]] = {
    "truncated": ("time=truncated",),
    "plain synthetic": ("time=synthetic", "predictor=mlp"),
    "critic": ("time=synthetic", "predictor=critic", "predictor.time.hidden=256"),
    "critic, loss alone": (
        "time=synthetic", "predictor=critic", "predictor.time.hidden=256", "predictor.time.match=0",
    ),
    "full": ("time=full",),
}  # fmt: skip

console = Console(width=max(Console().width, 100))


class Run(Protocol):
    """What can be measured."""

    @property
    def name(self) -> str:
        """As it stands in the results."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """As they are typed."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    task: str
    window: int
    method: str
    seed: int

    @property
    def name(self) -> str:
        """As it stands in the results."""
        return f"{self.task}, T={self.window}, {self.method}, seed {self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """As they are typed."""
        method = METHODS["truncated" if self.method.startswith("truncated") else self.method]
        return (
            "experiment=copy", f"data={self.task}", *method, f"predictor.time.lookahead={LOOKAHEAD}",
            f"data.window={self.window}", f"seed={self.seed}", f"lane_steps={LANE_STEPS}", "launch.torch_threads=1",
            "checkpoint.every=null",
        )  # fmt: skip

    def key(self) -> str:
        """Changes with any setting that changes the result."""
        return recipe(*self.overrides)


def plan() -> list[Cell]:
    """The table's cells, the most telling first."""
    if QUICK:
        return [Cell("copy", 4, method, 0) for method in ("truncated", "critic")]
    core = [("copy", 4), ("copy", 2), ("repeat_copy", 4), ("copy", 8)]
    cells = [Cell(*at, method, seed) for at in core for seed in SEEDS for method in ("truncated", "critic")]
    cells += [Cell(*at, "plain synthetic", seed) for at in core for seed in SEEDS]
    for task in ("copy", "repeat_copy"):
        cells += [Cell(task, 4, method, seed) for method in ("full", "critic, loss alone") for seed in SEEDS]
        cells += [Cell(task, 4 + LOOKAHEAD, "truncated at T+L", seed) for seed in SEEDS]
    return cells


def main() -> None:
    """Run what is not finished, two at a time, print the table and the bars."""
    cells, rows = plan(), finished()
    keys = {cell: cell.key() for cell in cells}
    missing = [cell for cell in cells if rows.get(cell.name, {}).get("key") != keys[cell]]
    console.print(f"{len(cells) - len(missing)} of {len(cells)} cells are finished", highlight=False)
    with ThreadPoolExecutor(1 if QUICK else 2) as pool:
        running = {pool.submit(measure, cell, OUT): cell for cell in missing}
        for number, future in enumerate(as_completed(running), 1):
            cell = running[future]
            rows[cell.name] = {"key": keys[cell], **future.result()}
            keep(rows, [])
            console.print(f"{number}/{len(missing)} {cell.name}: length {rows[cell.name]['solved']}", highlight=False)
    found = {cell.name: rows[cell.name] for cell in cells}
    show(cells, found)
    keep(found, bars(cells, found))


def measure(cell: Run, out: Path) -> dict[str, Any]:
    """Run one cell: every length when it was solved, in time steps per lane and in seconds."""
    folder = out / folder_name(cell)
    try:
        summary = train(folder, *cell.overrides, quiet=True)
    except Failed as error:
        if "DivergedError" not in str(error):
            raise SystemExit(f"{cell.name}: {error}; what it left is in {folder}") from error
        return {"solved": 0, "curve": [], "error": str(error), "wall_s": 0.0}
    curve: list[list[float]] = []
    for record in read_metrics(folder / METRICS):
        if record.get("solved_length", 0) > (curve[-1][0] if curve else 0):
            curve.append([record["solved_length"], record["lane_steps"], record["wall_s"]])
    return {
        "solved": curve[-1][0] if curve else 0,
        "curve": curve,
        "wall_s": summary["wall_s"],
        "updates": summary["steps"],
        "cosine": summary["stage"][0]["time_cosine"],
    }


def folder_name(cell: Run) -> str:
    """Where a cell's run lies: its name without what shells and Hydra mind."""
    return cell.name.replace(", ", "-").replace(" ", "").replace("=", "")


def solved_within(row: dict[str, Any], seconds: float) -> float:
    """The longest length solved in so many seconds."""
    return max((length for length, _, at in row["curve"] if at <= seconds), default=0)


def groups(cells: list[Cell]) -> dict[tuple[str, int, str], list[Cell]]:
    """Cells that differ only in their seed."""
    found: dict[tuple[str, int, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.task, cell.window, cell.method), []).append(cell)
    return found


def table_rows(cells: list[Cell], rows: dict[str, Any]) -> list[list[str]]:
    """Mean and spread over seeds, at equal symbols and at the seconds that truncation took."""
    lines = []
    for (task, window, method), members in groups(cells).items():
        solved = [rows[cell.name]["solved"] for cell in members]
        cosines = [c for cell in members if (c := rows[cell.name].get("cosine")) is not None]
        in_time = []
        for cell in members:
            reference = rows.get(Cell(task, window, "truncated", cell.seed).name)
            if reference is not None:
                in_time.append(solved_within(rows[cell.name], reference["wall_s"]))
        held = f"{'N' if method == 'full' else window} / {window + (LOOKAHEAD if 'critic' in method else 0)}"
        lines.append([
            task, str(window), method, spread(solved), " ".join(f"{s:.0f}" for s in solved), spread(in_time),
            f"{statistics.mean(rows[cell.name]['wall_s'] for cell in members):.0f}",
            f"{statistics.mean(cosines):.2f}" if cosines else "-", held,
        ])  # fmt: skip
    return lines


HEADS = [
    "task", "T", "method", "length", "by seed", "length in truncated's time", "seconds", "cosine at the cut",
    "time steps / labels held",
]  # fmt: skip


def show(cells: list[Cell], rows: dict[str, Any]) -> None:
    """The table."""
    table = Table(title=f"Longest length solved in {LANE_STEPS:,} time steps per lane")
    for head in HEADS:
        table.add_column(head)
    for line in table_rows(cells, rows):
        table.add_row(*line)
    console.print(table)


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def bars(cells: list[Cell], rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Best synthetic over truncated, mean over seeds."""
    found = []
    means = {
        at: statistics.mean(rows[cell.name]["solved"] for cell in members) for at, members in groups(cells).items()
    }
    for task, window, goal in (("copy", 2, 2.0), ("copy", 4, 2.0), ("copy", 8, None), ("repeat_copy", 4, 1.8)):
        ours, reference = means.get((task, window, "critic")), means.get((task, window, "truncated"))
        if ours is not None and reference:
            ratio = ours / reference
            found.append(
                bar(f"{task}, T={window}: critic over truncated", ratio, goal, None if goal is None else ratio >= goal)
            )
    return found


def keep(rows: dict[str, dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Write what there is."""
    write(RECORD, {"lane_steps": LANE_STEPS, "environment": environment(), "rows": rows, "bars": lines})


def finished() -> dict[str, dict[str, Any]]:
    """The cells of earlier calls, by name."""
    return dict(json.loads(RECORD.read_text(encoding="utf-8"))["rows"]) if RECORD.is_file() else {}


if __name__ == "__main__":
    main()
