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
    """Of the table of rates."""
    return ["method", *(f"{delay} ms" for delay in delays)]


def rates(rows: dict[str, Row], delays: Sequence[float]) -> list[list[str]]:
    """Updates per second; of a pipeline with equal batches, with the microbatches that serve it best at that delay."""
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
    """A pipeline's rows of equal batches are one, whatever M."""
    return method_of(name) if "M=" in name and "batches" not in name else name


def _cell(rows: dict[str, Row], name: str, delay: float) -> Row:
    found: Row = rows[name]["delays"][f"{delay:g}"]
    return found


HEADS = [
    "method", "delay", "updates/s", "samples/s", "busy", "staleness", "KB a step", "in flight", "held", "forecast",
    "bits at that lag",
]  # fmt: skip


def details(rows: dict[str, Row], forecasts: dict[str, Any], delays: Sequence[float]) -> list[list[str]]:
    """One line per cell."""
    return [
        line(name, delay, _cell(rows, name, delay), forecasts[name][f"{delay:g}"]) for name in rows for delay in delays
    ]


def line(name: str, delay: float, cell: Row, said: dict[str, float]) -> list[str]:
    """Busy shares and staleness by stage; most frames in flight on an edge; batches that the fullest stage holds, as
    the forecast counts them; its rate over the measured one; and what a critic reached with targets as late."""
    late = [age for age in cell["staleness"] if age is not None]
    rate, batches = cell["updates_per_s"], number(name, r"(\d+) batches", 1)
    return [
        name, f"{delay:g} ms", f"{rate:.1f}", f"{rate * BATCH * batches:,.0f}",
        " ".join(f"{share:.0%}" for share in cell["busy"]), " ".join(f"{age:.1f}" for age in late) or "-",
        f"{cell['bytes_per_step'] / 1024:,.0f}", f"{max(cell['in_flight'])}", f"{said['held']:.2f}",
        f"{said['over_measured']:.2f}", reached(method_of(name), late),
    ]  # fmt: skip


def reached(method: str, late: Sequence[float]) -> str:
    """Test bits on the text at the next larger lag (`benchmarks.depth.staleness`), or of what is never late."""
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
