"""Updates per second of each method on four stages on four hosts, joined by links of 0 to 100 ms.

Each host is a network namespace of this machine. A delay line holds every packet between them, of gRPC links and of
torch.distributed's pipelines alike (`benchmarks.network.hosts`; needs root on Linux). The accelerator is emulated: a
forward pass of a batch takes 4 ms, a backward pass 8, an update at a cut 1, a microbatch its share; all else is real. A
run passes through all delays without a restart, so a row takes a minute. Finished rows are read from
benchmarks/results/links.json. QUICK=1 takes few rows and two delays.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.delay.run import WATCHED, Phase, observe
from benchmarks.delay.simulated import checked
from benchmarks.delay.throughput_tables import HEADS, details, rate_heads, rates
from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row
from benchmarks.network.hosts import Hosts

STAGES, BATCH = 4, 32
FORWARD_MS, BACKWARD_MS, CUT_MS = 4.0, 8.0, 1.0
DELAYS = (0, 20) if QUICK else (0, 5, 20, 50, 100)
WINDOWS = (8,) if QUICK else (2, 8, 32)
#: Microbatches to try; two parts per stage double the messages, and 8 are slower than 4.
PARTS = {"gpipe": (4,)} if QUICK else {
    "gpipe": (4, 8, 16), "1f1b": (4, 8, 16), "interleaved_1f1b": (4, 8), "zero_bubble": (4, 8),
}  # fmt: skip
PIPELINES = tuple(PARTS)
#: Batches of a pipeline that may keep as many as W, each a microbatch: fewer updates of more examples.
LARGE = () if QUICK else (8, 32)

#: 64 KB at every cut: 32 streams of 16 steps and 32 numbers. Eight parts, for the schedule that needs two per stage.
MODEL = ("model=mlp", "model.layers=7", "model.units=32", "data.window=16", "data.sequence=null")
SYNTHETIC = ("depth=synthetic", "predictor=critic", "predictor.depth.eager_loss=true")

GRID = Grid("links", "links", {
    "delays_ms": DELAYS, "stages": STAGES, "batch": BATCH,
    "emulated_ms": {"forward": FORWARD_MS, "backward": BACKWARD_MS, "cut": CUT_MS},
})  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One row: a method and its frames in flight.

    Args:
        window: W of a method that does not wait
        parts: M of a pipeline
        batches: batches of the other rows in one of its own
    """

    method: str
    window: int | None = None
    parts: int | None = None
    batches: int = 1

    @property
    def name(self) -> str:
        """The row's name in the results."""
        parts = {
            f"W={self.window}": self.window,
            f"M={self.parts}": self.parts,
            f"{self.batches} batches": self.batches > 1,
        }
        return ", ".join([self.method, *(part for part, there in parts.items() if there)])

    @property
    def overrides(self) -> tuple[str, ...]:
        """The row's settings as typed."""
        n = self.batches
        return (
            *MODEL, *(SYNTHETIC if self.method == "synthetic" else (f"depth={self.method}",)),
            *((f"depth.max_in_flight={self.window}",) if self.window else ()),
            *((f"depth.microbatches={self.parts}",) if self.parts else ()),
            *(("depth.virtual_stages=1",) if self.method == "zero_bubble" else ()),  # ZB-H1: two are slower here
            f"data.batch={BATCH * n}", f"emulate.forward_ms={FORWARD_MS * n}", f"emulate.backward_ms={BACKWARD_MS * n}",
            f"emulate.cut_ms={CUT_MS}", f"stages={STAGES}", *WATCHED,
        )  # fmt: skip


def cells() -> list[Cell]:
    """Return all rows. `delayed` shares W among three edges, so W=2 would be less than one each."""
    waiting = [Cell("backprop")] + [Cell(name, parts=m) for name in PIPELINES for m in PARTS[name]]
    large = [Cell(name, parts=n, batches=n) for name in PIPELINES[:1] for n in LARGE]
    rest = [
        Cell(name, window=w)
        for name in ("synthetic", "local", "delayed")
        for w in WINDOWS
        if name != "delayed" or w >= STAGES - 1
    ]
    return waiting + large + rest


def main() -> None:
    """Run what is not finished; print the tables with predictions, and the bars."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with Hosts(STAGES, delay_ms=0.0) as hosts:
        phases = [Phase(delay, *((1.0, 4) if QUICK else (5.0, 10))) for delay in DELAYS]
        measure = partial(observe, hosts, GRID, phases)
        rows = GRID.fill(
            cells(), measure, lambda row: f"{row['delays']['0']['updates_per_s']:.1f} updates/s", at_once=1
        )
    forecasts = checked(rows, DELAYS, STAGES, BATCH, (FORWARD_MS, BACKWARD_MS, CUT_MS))
    show("Updates per second", rate_heads(DELAYS), rates(rows, DELAYS))
    show("Every cell", HEADS, details(rows, forecasts, DELAYS))
    GRID.head["forecasts"] = forecasts
    GRID.keep(rows, bars(rows, forecasts))


def show(title: str, heads: list[str], body: list[list[str]]) -> None:
    """Print a table."""
    table = Table(*heads, title=title)
    for line in body:
        table.add_row(*line)
    Console(width=170).print(table)


def bars(rows: dict[str, Row], forecasts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the share of the rate that remains if W covers the round trip, and the ratio to a pipeline's rate."""
    found = []
    for window in WINDOWS:
        row = rows[f"synthetic, W={window}"]["delays"]
        start = row["0"]["updates_per_s"]
        for delay in DELAYS[1:]:
            covered = window / (2 * delay + FORWARD_MS + BACKWARD_MS) * 1000 >= start
            if covered:
                share = row[str(delay)]["updates_per_s"] / start
                found.append(
                    bar(f"synthetic, W={window}, {delay} ms: share of its rate at 0 ms", share, 0.95, share >= 0.95)
                )
    far = "50" if 50 in DELAYS else str(DELAYS[-1])
    waiting = {name: row for name, row in rows.items() if name.split(",")[0] in ("backprop", *PIPELINES)}
    best = max((n for n in waiting if "batches" not in n), key=lambda n: waiting[n]["delays"][far]["updates_per_s"])
    for window in WINDOWS[1:] or WINDOWS:
        ours = rows[f"synthetic, W={window}"]["delays"][far]["updates_per_s"]
        ratio = ours / waiting[best]["delays"][far]["updates_per_s"]
        found.append(bar(f"synthetic, W={window}, {far} ms: updates/s over {best}", ratio, 10.0, ratio >= 10))
    ratios = [cell["over_measured"] for by_delay in forecasts.values() for cell in by_delay.values()]
    worst = max(ratios, key=lambda ratio: abs(ratio - 1), default=None)
    inside = [ratio for ratio in ratios if abs(ratio - 1) <= 0.1]
    found.append(
        bar("forecasts: share of cells within 10 %", len(inside) / max(1, len(ratios)), 1.0, len(inside) == len(ratios))
    )
    found.append(bar("forecasts: the worst over what was measured", worst, None, None))
    return found


if __name__ == "__main__":
    main()
