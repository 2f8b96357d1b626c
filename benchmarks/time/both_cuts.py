"""Cuts in depth and in time: copy, T=4, two LSTM stages in two processes over gRPC, W = 4; solved length by symbols.

It compares `synthetic + synthetic` with the usual `backprop + truncated`. Finished cells are read from
benchmarks/results/flagship.json. QUICK=1 takes few symbols; they stay in outputs/bench-flagship/quick/.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import Grid, by_seed, spread
from benchmarks.time.copy_task import FUTURE_LABELS, MAX_TIMESTEPS, SEEDS, measure

GRID = Grid("flagship", "flagship", {"max_timesteps": MAX_TIMESTEPS})
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
        """The run's name in the results."""
        return f"{self.method}, seed {self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The run's settings as typed."""
        return (
            "experiment=copy", *METHODS[self.method], f"predictor.time.future_labels={FUTURE_LABELS}", "stages=2",
            "model.layers=2", "model.split_points=[lstm2]",
    "transport=grpc", "launch=processes", "depth.max_in_flight=4",
            f"seed={self.seed}", f"max_timesteps={MAX_TIMESTEPS}", "launch.torch_threads=1", "checkpoint.every=null",
        )  # fmt: skip


def main() -> None:
    """Run what is not finished, one at a time, then print the bar."""
    cells = [Cell(method, seed) for seed in SEEDS for method in METHODS]
    rows = GRID.fill(cells, partial(measure, grid=GRID), lambda row: f"length {row['solved']}", at_once=1)
    solved = {method: [row["solved"] for row in found] for method, found in by_seed(rows).items()}
    for method, lengths in solved.items():
        print(f"{method}: {spread(lengths)}")
    reference = statistics.mean(solved["backprop + truncated"])
    ratio = statistics.mean(solved["synthetic + synthetic"]) / reference if reference else None
    name = "copy, T=4, 2 stages: synthetic over backprop + truncated"
    GRID.keep(rows, [bar(name, ratio, 1.5, ratio is not None and ratio >= 1.5)])


if __name__ == "__main__":
    main()
