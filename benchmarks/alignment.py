"""What a time cut's predictor has learned: synthetic against exact gradients, in the networks of `make bench-copy`.

Reads the last checkpoint of every cell at T=4 and takes fresh sequences of the length that cell had solved. Needs the
run folders that bench-copy left in outputs/bench-copy/full/.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.copying import OUT, SEEDS, Cell, finished, folder_name
from benchmarks.record import RESULTS, environment, write
from benchmarks.runs import composed
from dni.data.copying import CopySource
from dni.diagnostics import Alignment, alignment
from workers import checkpoint
from workers.build import build_stage
from workers.cuts import time_interface
from workers.sources import resolve

METHODS = ("truncated", "plain synthetic", "critic, loss alone", "critic")
SEQUENCES = 4


def main() -> None:
    """Print one line per task and method, and write the results."""
    lengths, found = finished(), {}
    for task in ("copy", "repeat_copy"):
        for method in METHODS:
            cells = [Cell(task, 4, method, seed) for seed in SEEDS]
            measured = [measure(cell, int(lengths[cell.name]["solved"])) for cell in cells if cell.name in lengths]
            if measured:
                found[f"{task}, {method}"] = {key: [m[key] for m in measured] for key in measured[0]}
                print(f"{task}, {method}: {summary(found[f'{task}, {method}'])}", flush=True)
    write(RESULTS / "alignment.json", {"rows": found, "environment": environment()})


def measure(cell: Cell, length: int) -> dict[str, float]:
    """Mean alignment over fresh batches of sequences of a length."""
    config, _ = resolve(composed(*cell.overrides))
    stage = build_stage(config, 0)
    cut = time_interface(config, 0, stage)
    folder = OUT / folder_name(cell)
    state = checkpoint.load(folder, checkpoint.complete_steps(folder)[-1], 0)
    stage.load_state_dict(state["stage"])
    cut.load_state_dict(state["time"])
    source = CopySource(
        config.data.batch, cell.window, config.lookahead, seed=10**9, repeat=cell.task == "repeat_copy", length=length
    )
    runs = [_of(alignment(stage.module, cut, [source.next() for _ in range(source.windows_per_sequence)]))
            for _ in range(SEQUENCES)]  # fmt: skip
    return {"length": float(length)} | {key: statistics.mean(run[key] for run in runs) for key in runs[0]}


def _of(found: Alignment) -> dict[str, float]:
    return asdict(found)


def summary(row: dict[str, list[float]]) -> str:
    """Means over seeds."""
    return ", ".join(f"{key} {statistics.mean(values):.2f}" for key, values in row.items())


def table(results: dict[str, Any]) -> list[list[str]]:
    """For README: one line per task and method."""
    keys = ("length", "cut_cosine", "cut_r2", "cut_norm", "parameters", "truncated")
    return [
        [
            name,
            *(
                f"{statistics.mean(row[key]):.0f}" if key == "length" else f"{statistics.mean(row[key]):.2f}"
                for key in keys
            ),
        ]
        for name, row in results["rows"].items()
    ]


if __name__ == "__main__":
    if not Path(OUT).is_dir():
        raise SystemExit(f"{OUT} is missing: run make bench-copy first")
    main()
