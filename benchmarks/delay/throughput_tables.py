"""The tables of `benchmarks.delay.throughput`: rates by method and delay, and every cell in full."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.delay.simulated import method_of, number
from benchmarks.harness.environment import RESULTS
from benchmarks.harness.grid import Row

BATCH = 32


def rate_heads(delays: Sequence[float]) -> list[str]:
    """Return the heads of the table of rates."""
    return ["method", *(f"{delay} ms" for delay in delays)]


def rates(rows: dict[str, Row], delays: Sequence[float]) -> list[list[str]]:
    """Return updates per second; for a pipeline with equal batches, with the best number of microbatches per delay."""
    found = []
    for group in dict.fromkeys(_group(name) for name in rows):
        names = [name for name in rows if _group(name) == group]
        cells = []
        for delay in delays:
            best = max(names, key=lambda name: _cell(rows, name, delay)["updates_per_s"])
            parts = f" ({best.rpartition(', ')[2]})" if len(names) > 1 else ""
            cells.append(f"{_cell(rows, best, delay)['updates_per_s']:.1f}{parts}")
        found.append([group, *cells])
    return found


def _group(name: str) -> str:
    """Return the name of a row's group: a pipeline's rows with equal batches form one group for all M."""
    return method_of(name) if "M=" in name and "batches" not in name else name


def _cell(rows: dict[str, Row], name: str, delay: float) -> Row:
    found: Row = rows[name]["delays"][f"{delay:g}"]
    return found


HEADS = [
    "method", "delay", "updates/s", "samples/s", "busy", "staleness", "KB a step", "in flight", "held", "forecast",
    "bits at that lag",
]  # fmt: skip


def details(rows: dict[str, Row], forecasts: dict[str, Any], delays: Sequence[float]) -> list[list[str]]:
    """Return one line per cell."""
    return [
        line(name, delay, _cell(rows, name, delay), forecasts[name][f"{delay:g}"]) for name in rows for delay in delays
    ]


def line(name: str, delay: float, cell: Row, predicted: dict[str, float]) -> list[str]:
    """Return a line with busy shares and staleness by stage, most frames in flight on an edge, most kept batches as
    predicted, the ratio of the predicted to the measured rate, and the bits of a critic with targets as late."""
    late = [age for age in cell["staleness"] if age is not None]
    rate, batches = cell["updates_per_s"], number(name, r"(\d+) batches", 1)
    return [
        name, f"{delay:g} ms", f"{rate:.1f}", f"{rate * BATCH * batches:,.0f}",
        " ".join(f"{share:.0%}" for share in cell["busy"]), " ".join(f"{age:.1f}" for age in late) or "-",
        f"{cell['bytes_per_step'] / 1024:,.0f}", f"{max(cell['in_flight'])}", f"{predicted['held']:.2f}",
        f"{predicted['over_measured']:.2f}", reached(method_of(name), late),
    ]  # fmt: skip


def reached(method: str, late: Sequence[float]) -> str:
    """Return test bits on the text at the next larger lag (`benchmarks.depth.staleness`), or those without lag."""
    known = {"synthetic": "critic", "delayed": "delayed", "local": "local"}.get(method, "backprop")
    path = RESULTS / "lag.json"
    if not path.is_file():
        return "-"
    tests: dict[int | None, list[float]] = {}
    for name, row in json.loads(path.read_text(encoding="utf-8"))["rows"].items():
        task, of, *late_by = name.rpartition(", seed ")[0].split(", ")
        if task == "text" and of == known and "test" in row:
            tests.setdefault(int(late_by[0].removeprefix("lag ")) if late_by else None, []).append(row["test"])
    if None in tests:
        return f"{statistics.mean(tests[None]):.2f}"
    age, lags = max(late, default=0.0), sorted(n for n in tests if n is not None)
    lag = next((n for n in lags if n >= round(age, 1)), None)
    return f"later than {lags[-1]}" if lag is None else f"{statistics.mean(tests[lag]):.2f} (lag {lag})"
