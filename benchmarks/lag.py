"""What late targets cost: validation bits per character against the lag of the depth predictors' targets.

The demonstration's model (time=truncated) with `depth.lag` set, so that every predictor learns from targets of exactly
that age: the critic, a local model of the loss, and an MLP from (activation, labels) to the gradient (cDNI); beside
them backprop. Cells that are finished are read from benchmarks/results/lag.json, so an interrupted benchmark goes on
where it stopped. QUICK=1 takes a few steps, at few lags, and keeps them in outputs/bench-lag/quick/.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, bar, environment, write
from benchmarks.runs import Failed, recipe, train
from workers.summary import METRICS, read_metrics

QUICK = os.environ.get("QUICK") == "1"
OUT = Path("outputs/bench-lag") / ("quick" if QUICK else "full")
RECORD = (OUT if QUICK else RESULTS) / "lag.json"
WINDOW = 9  # one for all, large enough for every lag

console = Console(width=max(Console().width, 100))


@dataclass(frozen=True)
class Cell:
    """One run: its name and what is set."""

    name: str
    overrides: tuple[str, ...]

    def key(self) -> str:
        """Changes with any setting that changes the result."""
        return recipe(*self.overrides)


def cells(steps: int, lags: tuple[int, ...], windows: int | None = None) -> list[Cell]:
    """Backprop, then every predictor at every lag; `windows`: how many are validated on, None for all."""
    common = (
        "experiment=demo", "time=truncated", "transport=local", "launch=threads", "launch.torch_threads=1", "seed=0",
        f"depth.window={WINDOW}", f"steps={steps}", f"evaluate.every={steps // 2}",
        f"evaluate.windows={'null' if windows is None else windows}", "checkpoint.every=null",
    )  # fmt: skip
    found = [Cell("backprop", (*common, "depth=backprop"))]
    for predictor, rate in (("critic", "4e-3"), ("mlp", "1e-3")):  # regressors do not survive the higher one
        for lag in lags:
            overrides = (
                "depth=synthetic", f"predictor={predictor}", f"optimizer.learning_rate={rate}", f"depth.lag={lag}",
            )  # fmt: skip
            found.append(Cell(f"{predictor}, lag {lag}", (*common, *overrides)))
    return found


def main() -> None:
    """Run what is not finished, print the table, write the results, print the bars."""
    plan = cells(20, (0, 1), windows=4) if QUICK else cells(1000, (0, 1, 4, 8))
    found = finished()
    for number, cell in enumerate(plan, 1):
        key = cell.key()
        if found.get(cell.name, {}).get("key") == key:
            console.print(f"{number} of {len(plan)}: {cell.name}: finished before", highlight=False)
            continue
        console.rule(f"{number} of {len(plan)}: {cell.name}")
        found[cell.name] = {"key": key, **measure(cell)}
        keep(found)
    rows = {cell.name: found[cell.name] for cell in plan}
    show(rows)
    keep(rows, bars(rows))


def finished() -> dict[str, dict[str, Any]]:
    """The cells of earlier calls, by name."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.is_file() else {}
    return dict(recorded)


def keep(rows: dict[str, dict[str, Any]], lines: list[dict[str, Any]] | None = None) -> None:
    """Write what there is."""
    write(RECORD, {"seed": 0, "window": WINDOW, "environment": environment(), "rows": rows, "bars": lines or []})


def measure(cell: Cell) -> dict[str, Any]:
    """Run one cell. A run that diverged is a result: it has no figures, but says why."""
    folder = OUT / cell.name.replace(", ", "-").replace(" ", "")
    try:
        summary = train(folder, *cell.overrides)
    except Failed as error:
        if "DivergedError" not in str(error):
            raise SystemExit(f"{cell.name}: {error}; what it left is in {folder}") from error
        console.print(f"{cell.name}: {error}", highlight=False)
        return {"bits": {}, "cosine": [], "error": str(error)}
    records = [record for record in read_metrics(folder / METRICS) if record.get("kind") == "valid"]
    return {
        "bits": {str(record["step"]): record["bits_per_char"] for record in records},
        "cosine": [stage["predictor_cosine"] for stage in summary["stage"][:-1]],
        "staleness": [stage["staleness_mean"] for stage in summary["stage"][:-1]],
        "wall_s": summary["wall_s"],
        "sha256": summary["data"]["sha256"],
    }


def last(row: dict[str, Any]) -> float | None:
    """Bits per character at the end; None for a run that diverged."""
    bits: dict[str, float] = row["bits"]
    return bits[max(bits, key=int)] if bits else None


def show(rows: dict[str, dict[str, Any]]) -> None:
    """One row per cell."""
    points = sorted({int(step) for row in rows.values() for step in row["bits"]})
    table = Table(title=f"Validation bits per character, 4 stages, W = {WINDOW}, seed 0")
    for heading in ("depth", *(f"step {point}" for point in points), "over backprop", "cosine by stage", "time (s)"):
        table.add_column(heading, justify="left" if heading == "depth" else "right")
    for name, row in rows.items():
        bits = [row["bits"].get(str(point)) for point in points]
        cosine = " ".join(number(value, "{:.2f}") for value in row["cosine"])
        time_s = number(row.get("wall_s"), "{:.0f}")
        ratio = number(over_backprop(rows, name), "{:.3f}")
        table.add_row(name, *(number(value, "{:.3f}") for value in bits), ratio, cosine, time_s)
    console.print(table)


def over_backprop(rows: dict[str, dict[str, Any]], name: str) -> float | None:
    """Bits at the end of a cell, over backprop's."""
    ours, reference = last(rows[name]), last(rows["backprop"])
    return None if ours is None or reference is None else ours / reference


def number(value: float | None, form: str) -> str:
    """A cell of the table."""
    return "-" if value is None else form.format(value)


def bars(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every figure as a line of JSON."""
    return [bar(f"{name}: validation bits/char", last(row), None, None) for name, row in rows.items()]


if __name__ == "__main__":
    main()
