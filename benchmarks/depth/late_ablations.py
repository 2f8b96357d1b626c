"""One setting at a time of corrected synthetic gradients that are late, on a GPT of characters in four stages.

The task and the recipe are those of `benchmarks.depth.late`, the lag is 8, one seed, 1,000 steps. Every run says what a
step costs: processor time of all stages, bytes on an edge, and the memory of the process.

DNI_PTB names the folder of the data. Finished runs are read from benchmarks/results. QUICK=1 takes a few steps; they
stay in outputs.
"""

from __future__ import annotations

import json
import statistics
from functools import partial

from rich.console import Console
from rich.table import Table

from benchmarks.depth.late import TUNED_AT, shown
from benchmarks.harness.cells import Cell
from benchmarks.harness.grid import QUICK, Grid, Row
from benchmarks.harness.late_methods import COMPARED, GPT
from benchmarks.harness.methods import Overrides
from benchmarks.harness.runs import import_from
from benchmarks.harness.tuning import compute, measure, tune

#: Bytes of an output: 12 rows of 64 characters, 128 wide, in float32.
OUTPUT_BYTES, EDGES = 12 * 64 * 128 * 4, 3
TASK, STEPS = "gpt, 4 stages", 1000
GRID, COMPUTE = Grid("late-ablations", "late_ablations"), Grid("late-ablations-compute", "late_ablations_compute")

OURS = "corrected"
_NORM = ("predictor=norm_head",)
#: The optimizer of the linear head: a constant rate of its own.
_AS_LINEAR = ("predictor.depth.learning_rate=1e-2", "predictor.depth.schedule=constant")
_MATCH = ("predictor.depth.gradient_weight=1", "predictor.depth.staleness_decay=1")
#: Its steps are about as long as AdamW's, so it takes the same rate.
_MUON = ("optimizer=muon",)
_NO_MATCH = ("predictor.depth.gradient_weight=0",)
#: By name: the method, and what differs from its recipe.
VARIANTS: dict[str, tuple[str, Overrides]] = {
    "backprop": ("backprop", ()),
    "corrected: linear head, beta 0.3": (OURS, ()),
    "beta 0: local, linear head": ("local + linear head", ()),
    "beta 0.1": (OURS, ("depth.beta=0.1",)),
    "beta 0.6": (OURS, ("depth.beta=0.6",)),
    "beta 1": (OURS, ("depth.beta=1",)),
    "beta_decay 0.5": (OURS, ("depth.beta_decay=0.5",)),
    "beta_law agreement": (OURS, ("depth.beta_law=agreement",)),
    "lambda 0.7, 3 orders": (OURS, ("depth.correction_lambda=0.7", "depth.orders=3")),
    "run again, not stashed": (OURS, ("depth.stash=false",)),
    "every 2nd step, beta 0.6": (OURS, ("depth.correct_every=2", "depth.beta=0.6")),
    "every 3rd step, beta 0.5": (OURS, ("depth.correct_every=3", "depth.beta=0.5")),
    "every 4th step, beta 0.6": (OURS, ("depth.correct_every=4", "depth.beta=0.6")),
    "Muon": (OURS, _MUON),
    "backprop, Muon": ("backprop", _MUON),
    "match": (OURS, _MATCH),
    "match that does not fade": (OURS, _MATCH[:1]),
    "head: norm, linear": (OURS, (*_NORM, *_AS_LINEAR)),
    "head: norm, 256 units": (OURS, (*_NORM, *_AS_LINEAR, "predictor.depth.hidden=256")),
    "head: norm, linear, reconstruction": (OURS, (*_NORM, *_AS_LINEAR, "predictor.depth.reconstruction=0.1")),
    "head: block": (OURS, ("predictor=block_head", *_NO_MATCH)),
    "head: copies": (OURS, ("predictor=copied_head", "predictor.depth.layers=1", *_NO_MATCH)),
    "local, head: norm, linear": ("local", _NORM),
    "local, head: block": ("local", ()),
}
QUICK_ONES = ("local, head: block", "corrected: linear head, beta 0.3")
HEADS = ["variant", "test (bits)", "over backprop", "compute of a step", "MB an edge and step", "memory, MB"]


def main() -> None:
    """Run the unfinished variants and print the table."""
    import_from(GPT)
    cells = [cell(name) for name in (QUICK_ONES if QUICK else VARIANTS)]
    rows = GRID.fill(cells, partial(measured, GRID), shown)
    GRID.keep(rows, [])
    costs = COMPUTE.fill(cells, compute, shown, at_once=1)
    COMPUTE.keep(costs, [])
    table = Table(*HEADS)
    for line in lines(rows, costs):
        table.add_row(*line)
    Console(width=140).print(table)


def cell(name: str) -> Cell:
    """Return the run of a variant. Another head leaves out the settings of its recipe's head, and Muon "adamw"."""
    method, more = VARIANTS[name]
    recipe = tune([(TASK, method)], TUNED_AT, COMPARED)[TASK, method]
    if any(part.startswith("predictor=") for part in more):
        recipe = tuple(part for part in recipe if not part.startswith("predictor"))
    if more == _MUON:
        recipe = tuple(part for part in recipe if not part.startswith("optimizer="))
    return Cell(name, TASK, method, recipe, 0, COMPARED.lag_of(method, TUNED_AT), STEPS, more, COMPARED)


def measured(grid: Grid, run: Cell) -> Row:
    """Train and test a variant; add its memory, and the bytes of weights that travel upstream."""
    row = measure(grid, run)
    stages = json.loads((grid.folder(run) / "summary.json").read_text(encoding="utf-8"))["stage"]
    copied = sum(stage.get("copied_bytes", 0) for stage in stages)
    return {**row, "peak_mb": max(stage["peak_rss_mb"] for stage in stages), "copied": copied / run.total_steps}


def edge_bytes(row: Row, name: str) -> float:
    """Return the bytes that an edge carries in a step, mean over edges: the output, its replies, and copied weights.

    With as many orders as edges, the edge before stage k = 1, 2, 3 carries one reply for each of its later edges.
    """
    replies = 0.0 if VARIANTS[name][0].startswith("local") else 1.0
    if any(part.startswith("depth.orders") for part in VARIANTS[name][1]):
        replies = statistics.mean(range(1, EDGES + 1))
    return OUTPUT_BYTES * (1 + replies) + float(row["copied"]) / EDGES


def lines(rows: dict[str, Row], costs: dict[str, Row]) -> list[list[str]]:
    """Return the table."""
    found = []
    tests = {name: rows.get(f"{name}, seed 0", {}).get("test") for name in VARIANTS}
    times = {name: costs.get(f"{name}, seed 0", {}).get("ms") for name in VARIANTS}
    for name in VARIANTS:
        row = rows.get(f"{name}, seed 0")
        if row is None:
            continue
        test = f"{row['test']:.3f}" if "test" in row else "diverged"
        sent, memory = (f"{edge_bytes(row, name) / 1e6:.2f}", f"{row['peak_mb']:.0f}") if "test" in row else ("", "")
        found.append([name, test, over(tests, name, percent=True), over(times, name), sent, memory])
    return found


def over(figures: dict[str, float | None], name: str, *, percent: bool = False) -> str:
    """Return a figure over backprop's: a ratio, or what it is above 1 in percent; empty if one is missing."""
    mine, whole = figures[name], figures["backprop"]
    if mine is None or whole is None:
        return ""
    return f"{100 * (mine / whole - 1):+.1f} %" if percent else f"{mine / whole:.2f}"


if __name__ == "__main__":
    main()
