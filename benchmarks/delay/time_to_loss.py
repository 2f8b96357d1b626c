"""Loss against seconds over links of 0, 20 and 50 ms: which method learns most in equal time?

The character LSTM on the Penn Treebank in four stages on four hosts (`benchmarks.network.hosts`; needs root on
Linux), one torch thread each. Every pass takes the time of an emulated accelerator, more than four times the time of
its computation here, so that a machine with two cores is fast enough (`cpu_ms` in the record gives the time used).
Recipes are those of `benchmarks.depth.methods` and `benchmarks.depth.staleness`, chosen by validation on another seed.

Synchronous schedules and local losses learn the same over any link. They are trained once in one process, and the
seconds of their steps are measured over each link. Synthetic and delayed gradients depend on late targets, so they are
trained over each link from beginning to end. DNI_PTB names the folder of the data. Finished runs are read from
benchmarks/results/race.json. QUICK=1 takes few steps and methods.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.delay.run import LINKED, WATCHED, Phase, completed, observe
from benchmarks.delay.time_to_loss_curves import bars, draw, heads, lines
from benchmarks.depth.staleness import FADE
from benchmarks.harness.grid import QUICK, Grid, Row
from benchmarks.harness.methods import TASKS, Overrides, method
from benchmarks.harness.runs import train
from benchmarks.harness.tuning import need_data, tune, validated
from benchmarks.network.hosts import Hosts

FORWARD_MS, BACKWARD_MS, CUT_MS = 16.0, 32.0, 8.0
DELAYS = (0, 20) if QUICK else (0, 20, 50)
STEPS = 12 if QUICK else 1000
EVERY = 4 if QUICK else 50
SEEDS = (0,) if QUICK else (0, 1, 2)
GRID = Grid("race", "race", {
    "delays_ms": DELAYS, "steps": STEPS,
    "emulated_ms": {"forward": FORWARD_MS, "backward": BACKWARD_MS, "cut": CUT_MS},
})  # fmt: skip
EMULATED = (f"emulate.forward_ms={FORWARD_MS}", f"emulate.backward_ms={BACKWARD_MS}", f"emulate.cut_ms={CUT_MS}")
EVALUATED = (f"steps={STEPS}", f"evaluate.every={EVERY}", f"evaluate.windows={2 if QUICK else 20}", "log_every=25")

#: Microbatches to try; the best at each delay counts.
PARTS = (4,) if QUICK else (4, 8)
PIPELINES = ("gpipe",) if QUICK else ("gpipe", "1f1b", "zero_bubble")
#: W by delay: enough for a link's round trip; for `delayed`, for that of all three links.
WINDOWS = {"synthetic": {0: 4, 20: 4, 50: 6}, "delayed": {0: 6, 20: 9, 50: 15}}
#: The lags at which the recipes were chosen; of `delayed`'s two, the better one at each delay counts.
CHOSEN_AT = {"synthetic": (8,), "delayed": (8,) if QUICK else (1, 8)}


@dataclass(frozen=True)
class Cell:
    """One run: `kind` is "learned" in one process, "timed" over all links in turn, or "raced" over one link."""

    kind: str
    label: str
    typed: Overrides
    delay: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """The run's name in the results."""
        return f"{self.kind}, {self.label}{'' if self.delay is None else f', {self.delay} ms'}, seed {self.seed}"

    @property
    def overrides(self) -> Overrides:
        """The run's settings as typed."""
        common = (*TASKS["text"].overrides, *self.typed, "time=truncated", f"seed={self.seed}")
        if self.kind == "learned":
            alone = ("transport=local", "launch=threads", "launch.torch_threads=1", "checkpoint.every=null")
            return (*common, *EVALUATED, *alone)
        return (*common, *EMULATED, *(WATCHED if self.kind == "timed" else (*EVALUATED, *LINKED)))


def plan() -> list[Cell]:
    """Return all runs."""
    recipes = tune([("text", name) for name in ("critic", "backprop", "local")], 8)
    delayed = {lag: tune([("text", "delayed")], lag)["text", "delayed"] for lag in CHOSEN_AT["delayed"]}
    own = {
        "backprop": recipes["text", "backprop"],
        "local": (*method("local", "text"), *recipes["text", "local"]),
        "synthetic": (*method("critic", "text"), *recipes["text", "critic"], *FADE),
    }
    found = [Cell("learned", "backprop", ("depth=backprop", *own["backprop"])), Cell("learned", "local", own["local"])]
    found += [Cell("timed", "backprop", ("depth=backprop", *own["backprop"]))]
    found += [Cell("timed", "local", (*own["local"], "depth.max_in_flight=6"))]
    for name, m in product(PIPELINES, PARTS):
        one_part = (
            ("depth.virtual_stages=1",) if name == "zero_bubble" else ()
        )  # ZB-H1; four layers cannot form eight parts
        typed = (f"depth={name}", f"depth.microbatches={m}", *one_part, *own["backprop"])
        found.append(Cell("timed", f"{name} M={m}", typed))
    for delay in DELAYS:
        window = f"depth.max_in_flight={WINDOWS['synthetic'][delay]}"
        found.append(Cell("raced", "synthetic", (*own["synthetic"], window), delay))
        window = f"depth.max_in_flight={WINDOWS['delayed'][delay]}"
        for lag in CHOSEN_AT["delayed"]:
            typed = ("depth=delayed", *delayed[lag], window)
            found.append(Cell("raced", f"delayed (rate of lag {lag})", typed, delay))
    return [replace(cell, seed=seed) for seed in SEEDS for cell in found if seed == 0 or cell.kind != "timed"]


def main() -> None:
    """Run what is not finished; print seconds to backprop's last loss, draw the curves."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    need_data({"text"})
    cells = plan()
    with Hosts(4, delay_ms=0.0) as hosts:
        rows = GRID.fill(cells, partial(measure, hosts), result_text, at_once=1)
    table = Table(*heads(DELAYS), title=f"Seconds to the validation bits that backprop has after {STEPS} steps")
    for line in lines(rows, DELAYS):
        table.add_row(*line)
    Console(width=180).print(table)
    draw(rows, DELAYS, GRID.out / "race.png" if QUICK else Path("docs/results/race.png"))
    GRID.keep(rows, bars(rows, DELAYS))


def result_text(row: Row) -> str:
    """Return the printed result of a run."""
    if "delays" in row:
        return ", ".join(
            f"{cell['updates_per_s']:.1f} updates/s at {delay} ms" for delay, cell in row["delays"].items()
        )
    return f"{row['curve'][-1][1]:.3f} bits"


def measure(hosts: Hosts, cell: Cell) -> Row:
    """Run once and return its curve or figures."""
    if cell.kind == "timed":
        phases = [Phase(delay, *((1.0, 4) if QUICK else (6.0, 12))) for delay in DELAYS]
        return observe(hosts, GRID, phases, cell)
    at = GRID.folder(cell).absolute()
    if cell.kind == "learned":
        train(at, *cell.overrides, quiet=True)
        return {"curve": curve(at)}
    assert cell.delay is not None
    summary = completed(hosts, at, cell.overrides, cell.delay)
    stages = summary["stage"]
    return {
        "curve": curve(at / "run"), "updates_per_s": min(stage["steps_per_s"] for stage in stages),
        "staleness": [stage["staleness_mean"] for stage in stages[:-1]], "busy": [stage["busy"] for stage in stages],
    }  # fmt: skip


def curve(run_dir: Path) -> list[tuple[int, float]]:
    """Return (step, validation bits) of every validation pass."""
    return [(record["step"], record["bits_per_label"]) for record in validated(run_dir)]


if __name__ == "__main__":
    main()
