"""Memory against sequence length, by gradient in time: none, predicted or full.

One LSTM layer trains on one sequence of generated symbols, each time in a fresh process
(benchmarks/time/memory_probe.py); the figure is its peak memory minus the memory before the first step. Data are drawn
window by window, so the figure is the trainer's memory. A method stops where it would exceed LIMIT_MB. QUICK=1 uses
short sequences and writes to outputs/bench-memory/ instead of benchmarks/results/ and docs/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import RESULTS, bar, environment, write
from benchmarks.time.memory_probe import BATCH, METHODS, SYMBOLS, UNITS, WINDOW

QUICK = os.environ.get("QUICK") == "1"
LENGTHS = (100, 1000) if QUICK else (100, 1000, 10_000, 100_000)
OUT = Path("outputs/bench-memory") if QUICK else RESULTS
PICTURE = (OUT if QUICK else RESULTS.parent.parent / "docs" / "results") / "memory.png"
LIMIT_MB = 5000
MOST_GROWTH = 0.05
COLOURS = dict(zip(METHODS, ("#0072B2", "#D55E00", "#009E73", "#000000"), strict=True))

console = Console(width=max(Console().width, 100))


def main() -> None:
    """Measure, print the table and the bars, write the results and the figure."""
    rows = [{"method": method, "points": points(method)} for method in METHODS]
    show(rows)
    results = {
        "symbols": SYMBOLS, "units": UNITS, "batch": BATCH, "window": WINDOW, "limit_mb": LIMIT_MB, "seed": 0,
        "environment": environment(), "rows": rows, "bars": bars(rows),
    }  # fmt: skip
    write(OUT / "memory.json", results)
    draw(rows, PICTURE)


def points(method: str) -> list[dict[str, Any]]:
    """Return the method's memory at every length, up to the limit; `extra_mb` is None beyond it."""
    found: list[dict[str, Any]] = []
    for length in LENGTHS:
        before = found[-1] if found else {"extra_mb": 0.0, "steps": length}
        expected = None if before["extra_mb"] is None else before["extra_mb"] * length / before["steps"]
        if expected is None or expected > LIMIT_MB:
            found.append({"steps": length, "extra_mb": None})
            continue
        found.append({"steps": length, **measure(method, length)})
        console.print(f"{method}, {length:,} steps: {found[-1]['extra_mb']:.1f} MB", highlight=False)
    return found


def measure(method: str, length: int) -> dict[str, float]:
    """Run one training in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.time.memory_probe", method, str(length)]
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with exit code {ended.returncode}")
    found: dict[str, float] = json.loads(ended.stdout)
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table("time", *(f"{length:,} steps" for length in LENGTHS), title="Memory beyond the start (MB)")
    for row in rows:
        table.add_row(row["method"], *("-" if p["extra_mb"] is None else f"{p['extra_mb']:.1f}" for p in row["points"]))
    console.print(table)


def growth(row: dict[str, Any], shorter: int, longer: int) -> float:
    """Return the relative growth of a method's memory from the shorter to the longer length."""
    held = {point["steps"]: point["extra_mb"] for point in row["points"]}
    return float(held[longer] / held[shorter] - 1)


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bars: methods with windows need no more memory for a longer sequence."""
    found = []
    shorter, longer = (100, 1000) if QUICK else (1000, 100_000)
    for row in rows[:2]:
        more = growth(row, shorter, longer)
        name = f"{row['method']}: growth of memory from {shorter:,} to {longer:,} steps"
        found.append(bar(name, more, MOST_GROWTH, more < MOST_GROWTH))
    return found


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw memory against length, both logarithmic."""
    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="steps of the sequence", ylabel="memory beyond the start (MB)")
    for row, marker in zip(rows, "osD^", strict=True):
        held = [(point["steps"], point["extra_mb"]) for point in row["points"] if point["extra_mb"] is not None]
        axes.loglog(
            *zip(*held, strict=True), marker=marker, color=COLOURS[row["method"]], label=f"time={row['method']}"
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": None})


if __name__ == "__main__":
    main()
