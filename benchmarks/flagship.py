"""Both cuts at once: copy, T=4, two LSTM stages in two processes over gRPC, W = 4; what is solved in how many symbols.

`synthetic + synthetic` against `backprop + truncated`, which is what a user would run today. Finished cells are read
from benchmarks/results/flagship.json. QUICK=1 takes few symbols; they stay in outputs/bench-flagship/quick/.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.copying import LOOKAHEAD, measure, spread
from benchmarks.record import RESULTS, bar, environment, write
from benchmarks.runs import recipe

QUICK = os.environ.get("QUICK") == "1"
OUT = Path("outputs/bench-flagship") / ("quick" if QUICK else "full")
RECORD = (OUT if QUICK else RESULTS) / "flagship.json"
LANE_STEPS = 400 if QUICK else 40_000
SEEDS = (0,) if QUICK else (0, 1, 2)
METHODS = {
    "backprop + truncated": ("depth=backprop", "time=truncated"),
    "synthetic + synthetic": ("depth=synthetic", "time=synthetic", "predictor.time.hidden=256"),
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """As it stands in the results."""
        return f"{self.method}, seed {self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """As they are typed."""
        return (
            "experiment=copy", *METHODS[self.method], f"predictor.time.lookahead={LOOKAHEAD}", "stages=2",
            "model.layers=2", "model.cut_at=[lstm2]", "transport=grpc", "launch=processes", "depth.window=4",
            f"seed={self.seed}", f"lane_steps={LANE_STEPS}", "launch.torch_threads=1", "checkpoint.every=null",
        )  # fmt: skip

    def key(self) -> str:
        """Changes with any setting that changes the result."""
        return recipe(*self.overrides)


def main() -> None:
    """Run what is not finished, one after the other, then print the bar."""
    rows: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.is_file() else {}
    for cell in [Cell(method, seed) for seed in SEEDS for method in METHODS]:
        if rows.get(cell.name, {}).get("key") != cell.key():
            rows[cell.name] = {"key": cell.key(), **measure(cell, OUT)}
            keep(rows, [])
        row = rows[cell.name]
        print(f"{cell.name}: length {row['solved']}, {row['wall_s']:.0f} s", flush=True)
    solved = {method: [rows[Cell(method, seed).name]["solved"] for seed in SEEDS] for method in METHODS}
    for method, lengths in solved.items():
        print(f"{method}: {spread(lengths)}")
    reference = statistics.mean(solved["backprop + truncated"])
    ratio = statistics.mean(solved["synthetic + synthetic"]) / reference if reference else None
    keep(
        rows,
        [
            bar(
                "copy, T=4, 2 stages: synthetic over backprop + truncated",
                ratio,
                1.5,
                ratio is not None and ratio >= 1.5,
            )
        ],
    )


def keep(rows: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Write what there is."""
    write(RECORD, {"lane_steps": LANE_STEPS, "environment": environment(), "rows": rows, "bars": lines})


if __name__ == "__main__":
    main()
