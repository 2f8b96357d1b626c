"""Seconds to backprop's loss of a GPT of characters over links of 0, 20 and 50 ms.

The GPT of `benchmarks.depth.late` in four stages on four hosts (`benchmarks.network.hosts`; needs root on Linux). The
goal is what backprop reaches in half of the steps that the other runs take. Curves come from that benchmark's record,
at the lags of `LAG`; run it first. Seconds of a step are measured over each link. Every pass takes the time of an
emulated accelerator; heads and second backward passes take what they cost in processor time beside the passes
(late_compute.json). DNI_PTB names the folder of the data. Finished runs are read from benchmarks/results.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table

from benchmarks.delay.run import WATCHED, Phase, observe
from benchmarks.delay.time_to_loss_curves import reaches
from benchmarks.depth.late import TUNED_AT
from benchmarks.harness.cells import ALONE
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, spread
from benchmarks.harness.late_methods import COMPARED, EARLY, GPT, TASKS, method
from benchmarks.harness.methods import Overrides
from benchmarks.harness.runs import import_from, train
from benchmarks.harness.tuning import need_data, tune, validated
from benchmarks.network.hosts import Hosts

TASK, FAMILY, STAGES = "gpt, 4 stages", "gpt", 4
FORWARD_MS, BACKWARD_MS = 64.0, 128.0
DELAYS = (0, 20) if QUICK else (0, 20, 50)
STEPS = 12 if QUICK else TASKS[TASK].steps // 2
SEEDS = (0,) if QUICK else (0, 1, 2)
#: The lag of a method's curves.
LAG = {"corrected": 8, EARLY: 1}
LOCKED = ("backprop", "gpipe", "1f1b", "zero_bubble")
TIMED = ("backprop", "gpipe", "corrected") if QUICK else (*LOCKED, "local", EARLY, "corrected")
GRID = Grid("gpt-race", "gpt_race", {
    "delays_ms": DELAYS, "steps": STEPS, "emulated_ms": {"forward": FORWARD_MS, "backward": BACKWARD_MS},
})  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Backprop's curve in half of the steps ("learned"), or the seconds of a method's step over all links ("timed")."""

    kind: str
    label: str
    recipe: Overrides
    cut_ms: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """The run's name in the results."""
        return f"{self.kind}, {self.label}, seed {self.seed}"

    @property
    def overrides(self) -> Overrides:
        """The run's settings as typed."""
        common = (*TASKS[TASK].overrides, *self.recipe, "time=truncated", f"seed={self.seed}")
        if self.kind == "learned":
            shown = (f"steps={STEPS}", f"evaluate.every={STEPS // 4}", "evaluate.windows=50", "log_every=50")
            return (*common, *ALONE, *shown)
        emulated = (f"emulate.forward_ms={FORWARD_MS}", f"emulate.backward_ms={BACKWARD_MS}")
        cut = (f"emulate.cut_ms={self.cut_ms:.0f}",) if self.cut_ms else ()
        return (*common, *emulated, *cut, *WATCHED)


def plan() -> list[Run]:
    """Return all runs."""
    costs = recorded("late_compute")
    recipes = tune([(TASK, name) for name in ("backprop", "local", "corrected")], TUNED_AT, COMPARED)
    recipes |= tune([(TASK, EARLY)], LAG[EARLY], COMPARED)
    whole = (*method("backprop", FAMILY), *recipes[TASK, "backprop"])
    found = [Run("learned", "backprop", whole, seed=seed) for seed in SEEDS]
    for name in TIMED:
        if name in LOCKED:
            parts = () if name == "backprop" else ("depth.microbatches=4",)
            one_part = ("depth.virtual_stages=1",) if name == "zero_bubble" else ()
            found.append(Run("timed", name, (f"depth={name}", *parts, *one_part, *recipes[TASK, "backprop"])))
        else:
            typed = (*method(name, FAMILY), *recipes[TASK, name], "depth.max_in_flight=9")
            found.append(Run("timed", name, typed, 0.0 if name == EARLY else head_ms(costs, name)))
    return found


def recorded(record: str) -> dict[str, Row]:
    """Return the rows of a record of `benchmarks.depth.late`."""
    return Grid("late", record).finished()


def head_ms(costs: dict[str, Row], name: str) -> float:
    """Return what the head and the corrections of a stage cost, on the emulated accelerator."""
    label = f"{TASK}, {name}, lag {LAG[name]}, seed 0" if name in LAG else f"{TASK}, {name}, seed 0"
    if label not in costs:
        raise SystemExit(f"the record lacks the compute of {label!r}: first run TASK={TASK!r} make bench-late")
    ratio = costs[label]["ms"] / costs[f"{TASK}, backprop, seed 0"]["ms"]
    return float((ratio - 1) * (FORWARD_MS + BACKWARD_MS) * STAGES / (STAGES - 1))


def main() -> None:
    """Run what is not finished, and print seconds to backprop's loss."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    import_from(GPT)
    need_data({"text"})
    with Hosts(STAGES, delay_ms=0.0) as hosts:
        rows = GRID.fill(plan(), partial(measure, hosts), shown, at_once=1)
    GRID.keep(rows, [])
    table = Table(*heads(DELAYS))
    for line in lines(rows, DELAYS):
        table.add_row(*line)
    Console(width=160).print(table)


def measure(hosts: Hosts, run: Run) -> Row:
    """Run once and return its curve, or its figures at all delays."""
    if run.kind == "timed":
        return observe(hosts, GRID, [Phase(delay, *((1.0, 4) if QUICK else (6.0, 12))) for delay in DELAYS], run)
    at = GRID.folder(run).absolute()
    train(at, *run.overrides, quiet=True)
    return {"curve": [[record["step"], record["bits_per_label"]] for record in validated(at)]}


def shown(row: Row) -> str:
    """Return what the progress says of a row."""
    if "curve" in row:
        return f"{row['curve'][-1][1]:.3f} bits"
    return ", ".join(f"{cell['updates_per_s']:.1f} updates/s at {ms} ms" for ms, cell in row["delays"].items())


def heads(delays: tuple[int, ...]) -> list[str]:
    """Return the heads of the table."""
    return ["method", "steps to the loss", *(f"s to the loss, {ms} ms" for ms in delays), "ms a step, 0 ms"]


def lines(rows: dict[str, Row], delays: tuple[int, ...]) -> list[list[str]]:
    """Return the table: seconds until each seed reaches its own backprop's loss."""
    curves, found = recorded("late"), []
    goals = {row["seed"]: row["curve"][-1][1] for row in by_seed(rows).get("learned, backprop", [])}
    for name in TIMED:
        timed = rows.get(f"timed, {name}, seed 0")
        if timed is None:
            continue
        steps = [float(STEPS)] if name in LOCKED else steps_to(goals, curves, name)
        rates = [timed["delays"][str(ms)]["updates_per_s"] for ms in delays]
        cells = [spread([each / rate for each in steps]) if steps else "never" for rate in rates]
        found.append([name, spread(steps, 0) if steps else "never", *cells, f"{1000 / rates[0]:.0f}"])
    return found


def steps_to(goals: dict[int, float], curves: dict[str, Row], name: str) -> list[float]:
    """Return the steps in which each seed reaches the goal; empty if one does not."""
    label = f"{TASK}, {name}, lag {LAG[name]}" if name in LAG else f"{TASK}, {name}"
    runs = [row for row in by_seed(curves).get(label, []) if row["seed"] in goals and "curve" in row]
    found = [reaches(row["curve"], goals[row["seed"]]) for row in runs]
    reached = [each for each in found if each is not None]
    return reached if len(reached) == len(found) else []


if __name__ == "__main__":
    main()
