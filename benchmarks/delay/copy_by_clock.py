"""Which sequence length is learned over links of 20 ms: copy, T=4, four stages; at equal symbols and equal seconds.

It compares `synthetic + synthetic` with pipelines: `1f1b + truncated`, `gpipe + truncated` and `gpipe + full`, whose
windows are whole sequences. Three LSTM layers of 64 units and a softmax layer, one per stage, run on an emulated
accelerator (`benchmarks.delay.throughput`); the time of a window grows with its length. Recipes are those of
`benchmarks.time.copy_task` with one of three learning rates, the one that solved more on seed 100.

A synchronous schedule learns the same as backprop over any link. It is trained once in one process, and the seconds of
its steps are measured over the links. The seconds of whole sequences, whose length grows, are predicted by
`dni-simulate` with the measured overhead. `synthetic + synthetic` runs over the links from beginning to end. Finished
runs are read from benchmarks/results/reach.json. QUICK=1 takes few symbols.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.delay.run import LINKED, WATCHED, Phase, completed, observe
from benchmarks.delay.simulated import Times, fit, scenario
from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, spread
from benchmarks.harness.runs import train
from benchmarks.network.hosts import Hosts
from benchmarks.time.copy_task import FUTURE_LABELS, METHODS, solved
from workers.simulation.model import predict
from workers.tracking.run import METRICS, read_metrics

DELAY, STAGES, T, BATCH = 20, 4, 4, 64
TIMES: Times = (10.0, 20.0, 5.0)  # ms of a forward and a backward pass of a window of T, of an update at a cut
MAX_TIMESTEPS = 400 if QUICK else 20_000
SEEDS = (0,) if QUICK else (0, 1, 2)
TRIED, RATES = 100, ("3e-3",) if QUICK else ("3e-3", "6e-3", "1.2e-2")
PARTS = (4,) if QUICK else (4, 8)
GRID = Grid("reach", "reach", {"delay_ms": DELAY, "max_timesteps": MAX_TIMESTEPS, "emulated_ms": TIMES})
MODEL = ("experiment=copy", f"stages={STAGES}", "model.layers=3", "model.split_points=[lstm2,lstm3,softmax]")
OURS = "synthetic + synthetic"
#: method: (how it is trained, the schedule that its steps are timed with)
WAITING = {
    "1f1b + truncated": ("truncated", "1f1b"),
    "gpipe + truncated": ("truncated", "gpipe"),
    "gpipe + full": ("full", "gpipe"),
}


@dataclass(frozen=True)
class Cell:
    """One run: "tried" or "learned" in one process, "timed" over links, or "raced" over links to the end."""

    kind: str
    label: str
    typed: tuple[str, ...]
    seed: int | None = None

    @property
    def name(self) -> str:
        """The run's name in the results."""
        return f"{self.kind}, {self.label}, seed {self.seed or 0}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The run's settings as typed."""
        common = (*MODEL, *self.typed, f"seed={self.seed or 0}")
        ends = (f"max_timesteps={MAX_TIMESTEPS}", "log_every=25")
        forward, backward, cut = TIMES
        emulated = (f"emulate.forward_ms={forward}", f"emulate.backward_ms={backward}", f"emulate.cut_ms={cut}")
        if self.kind in ("tried", "learned"):
            alone = ("transport=local", "launch=threads", "launch.torch_threads=1", "checkpoint.every=null")
            return (*common, *ends, *alone)
        return (*common, *emulated, "transport=grpc", *((*ends, *LINKED) if self.kind == "raced" else WATCHED))


TYPED = {
    "truncated": ("depth=backprop", *METHODS["truncated"]),
    "full": ("depth=backprop", *METHODS["full"]),
    OURS: (
        "depth=synthetic", "depth.max_in_flight=4", "predictor.depth.eager_loss=true", *METHODS["critic"],
        f"predictor.time.future_labels={FUTURE_LABELS}",
    ),
}  # fmt: skip


def trials() -> dict[str, list[Cell]]:
    """Return the runs of each recipe at each rate. In one process, targets are one step late."""
    late = {OURS: ("depth.lag=1",)}
    return {
        name: [
            Cell("tried", f"{name} at {rate}", (*typed, f"optimizer.learning_rate={rate}", *late.get(name, ())), TRIED)
            for rate in RATES
        ]
        for name, typed in TYPED.items()
    }


def plan(rows: dict[str, Row]) -> list[Cell]:
    """Return all runs to report, with the rates chosen from the trials' rows."""
    typed = {}
    for name, cells in trials().items():
        best = max(cells, key=lambda cell: (last_solved(rows[cell.name]), -cells.index(cell)))
        typed[name] = (*TYPED[name], f"optimizer.learning_rate={best.label.rpartition(' ')[2]}")
    found = [Cell("raced", OURS, typed[OURS], seed) for seed in SEEDS]
    found += [Cell("learned", name, typed[name], seed) for name in ("truncated", "full") for seed in SEEDS]
    truncated = [part for part in typed["truncated"] if not part.startswith("depth=")]
    return found + [
        Cell("timed", f"{schedule} M={m}", (f"depth={schedule}", f"depth.microbatches={m}", *truncated))
        for schedule in ("gpipe", "1f1b")
        for m in PARTS
    ]


def last_solved(row: Row) -> float:
    """Return the longest solved length."""
    return float(row["curve"][-1][0]) if row["curve"] else 0.0


def main() -> None:
    """Run what is not finished, print the table and the bars."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with Hosts(STAGES, delay_ms=DELAY) as hosts:
        run = partial(GRID.fill, measure=partial(measure, hosts), show=result_text, at_once=1)
        tried = run([cell for cells in trials().values() for cell in cells])
        rows = {**tried, **run(plan(tried))}
    table = Table(
        *HEADS, title=f"Copy, T={T}, {STAGES} stages, links of {DELAY} ms, {MAX_TIMESTEPS:,} time steps per stream"
    )
    for line in lines(rows):
        table.add_row(*line)
    Console(width=140).print(table)
    GRID.keep(rows, bars(rows))


def result_text(row: Row) -> str:
    """Return the printed result of a run."""
    if "delays" in row:
        return f"{row['delays'][str(DELAY)]['updates_per_s']:.1f} updates/s"
    return f"length {row['curve'][-1][0] if row['curve'] else 0}"


def measure(hosts: Hosts, cell: Cell) -> Row:
    """Run once. A learning run returns [length, time steps per stream, seconds, updates] at each solution, and its
    end."""
    if cell.kind == "timed":
        return observe(hosts, GRID, [Phase(DELAY, *((1.0, 4) if QUICK else (8.0, 16)))], cell)
    at = GRID.folder(cell).absolute()
    if cell.kind == "raced":
        completed(hosts, at, cell.overrides, DELAY)
        at = at / "run"
    else:
        train(at, *cell.overrides, quiet=True)
    records = [r for r in read_metrics(at / METRICS) if "timesteps" in r]
    steps = {r["timesteps"]: r["step"] for r in records}
    last = records[-1]
    return {
        "curve": [[*point, steps[point[1]]] for point in solved(records)],
        "end": [last["timesteps"], last["wall_s"], last["step"]],
    }  # fmt: skip


def seconds_of(rows: dict[str, Row], schedule: str, whole: bool) -> tuple[float, float]:
    """Return (a, b): n updates over m time steps per stream take a n + b m seconds with the schedule's best M."""
    best = max((n for n in rows if n.startswith(f"timed, {schedule} M=")), key=lambda n: _rate(rows, n))
    rate = _rate(rows, best)
    if not whole:
        return 1 / rate, 0.0
    name = best.removeprefix("timed, ").removesuffix(", seed 0").replace(" M=", ", M=")
    overhead = fit(rate, name, STAGES, BATCH, TIMES, delay_ms=DELAY)
    short, long = (
        1 / predict(schedule, scenario(name, DELAY, overhead, STAGES, BATCH, _times(n))).updates_per_s for n in (1, 11)
    )
    return short - (long - short) / 10, (long - short) / (10 * T)


def _times(windows: int) -> Times:
    forward, backward, cut = TIMES
    return forward * windows, backward * windows, cut


def _rate(rows: dict[str, Row], name: str) -> float:
    return float(rows[name]["delays"][str(DELAY)]["updates_per_s"])


def curves(rows: dict[str, Row]) -> dict[str, list[tuple[list[list[float]], float]]]:
    """Return per method and seed [length, time steps per stream, seconds] at each solution, and the total seconds."""
    groups = by_seed(rows)
    found = {OURS: [([p[:3] for p in row["curve"]], row["end"][1]) for row in groups[f"raced, {OURS}"]]}
    for name, (learned, schedule) in WAITING.items():
        each, per_step = seconds_of(rows, schedule, learned == "full")
        found[name] = [
            ([[length, stream, each * n + per_step * stream] for length, stream, _, n in row["curve"]],
             each * row["end"][2] + per_step * row["end"][0])
            for row in groups[f"learned, {learned}"]
        ]  # fmt: skip
    return found


HEADS = ["method", "length", "by seed", "seconds", f"length in the seconds of {OURS}"]


def lines(rows: dict[str, Row]) -> list[list[str]]:
    """Return mean and spread over seeds, at equal symbols and at equal seconds."""
    found, of_methods = [], curves(rows)
    clock = statistics.mean(end for _, end in of_methods[OURS])
    for name, seeds in of_methods.items():
        whole, each = statistics.mean(end for _, end in seeds), " ".join(f"{n:.0f}" for n in lengths(seeds))
        found.append([name, spread(lengths(seeds)), each, f"{whole:,.0f}", spread(lengths(seeds, clock))])
    return found


def lengths(seeds: list[tuple[list[list[float]], float]], seconds: float = float("inf")) -> list[float]:
    """Return the longest length that each seed solved within `seconds`."""
    return [max((length for length, _, at in curve if at <= seconds), default=0.0) for curve, _ in seeds]


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return our length over the others', at equal symbols and at equal seconds."""
    of_methods = curves(rows)
    clock = statistics.mean(end for _, end in of_methods[OURS])
    found = []
    for name in WAITING:
        for what, limit in (("symbols", float("inf")), ("seconds", clock)):
            ours, theirs = (statistics.mean(lengths(of_methods[n], limit)) for n in (OURS, name))
            found.append(
                bar(f"{OURS} over {name}, length at equal {what}", ours / theirs if theirs else None, None, None)
            )
    return found


if __name__ == "__main__":
    main()
