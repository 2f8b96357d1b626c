"""Late gradients: every method in depth on every task when targets, or gradients per edge, are n steps late.

A GPT of characters with 4 and with 8 stages, a character LSTM, perceptrons on MNIST with 3 and with 6 cuts, and a
convolutional and a residual net on CIFAR-10. Three seeds of the main methods at lag 8; one elsewhere, and of the
residual net, but three everywhere on MNIST with 3 cuts.
`depth.lag` is 1, 8 and 32, so every run repeats bit for bit. Every method's recipe is chosen at lag 8 and kept for all
lags; that of delayed gradients is also chosen at lag 1. A second table compares methods at equal compute: there each
run has as many steps as its stages compute in the time of the local losses' run.

DNI_PTB, DNI_MNIST and DNI_CIFAR10 name the folders of the data. Finished cells are read from benchmarks/results, so an
interrupted benchmark continues where it stopped; TASK="gpt, 4 stages" runs this task alone. QUICK=1 takes a few steps;
they stay in outputs.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.depth.late_tables import EQUAL, EQUAL_HEADS, HEADS, LAGS, bars, draw, equal_lines, lines
from benchmarks.harness.cells import Cell
from benchmarks.harness.grid import QUICK, Grid, Row
from benchmarks.harness.late_methods import COMPARED, CORRECTED, EARLY, GPT, METHODS, TASKS
from benchmarks.harness.runs import import_from
from benchmarks.harness.tuning import compute, measure, need_data, tune

SEEDS = (0,) if QUICK else (0, 1, 2)
NAMES = ("backprop", "local", "corrected") if QUICK else tuple(METHODS)
TUNED_AT = 1 if QUICK else 8
GRID, COMPUTE = Grid("late", "late", {"tuned_at": TUNED_AT}, ("depth",)), Grid("late-compute", "late_compute")
#: Lags of methods that need not be run at all of them: cDNI collapses, today's critic has a page of its own.
SOME_LAGS = {
    "cDNI": (1,),
    **dict.fromkeys(("critic", *CORRECTED[1:]), (8,)),
    EARLY: (1,),
}
#: The lag at which a method's recipe is chosen, if it is another one.
OWN_TUNING = {EARLY: 1}
LOCAL = ("backprop", "local", "local + linear head")
#: The task with three seeds everywhere, and that with one. Others have three of some methods, at the recipes' lag.
EVERY_SEED, ONE_SEED = "mnist, 3 cuts", "residual net"
THREE_SEEDS = (*LOCAL, "critic", *CORRECTED)
#: Methods of a task; those of `FEWER` if it is not here.
SOME_METHODS = {
    **dict.fromkeys(("gpt, 8 stages", "gpt, small text"), (*LOCAL, "corrected", "delayed")),
    "gpt, 4 stages": tuple(METHODS),
    "residual net": (*LOCAL, *CORRECTED[:2]),
    "mnist, 6 cuts": (*LOCAL, "corrected", "critic", "delayed"),
}
FEWER = tuple(name for name in METHODS if name != "corrected + large head")
TUNED_ON = {"gpt, 8 stages": "gpt, 4 stages", "gpt, small text": "gpt, 4 stages", "mnist, 6 cuts": "mnist, 3 cuts"}
#: The family of data of a family of tasks, if it is called otherwise.
DATA = {"gpt": "text"}

Recipes = dict[tuple[str, str], tuple[str, ...]]


def main() -> None:
    """Choose the recipes, run the unfinished cells, print the tables and the bars."""
    import_from(GPT)
    only = os.environ.get("TASK", "mnist, 3 cuts" if QUICK else "")
    tasks = [task for task in TASKS if task == (only or task)]
    need_data({DATA.get(TASKS[task].family, TASKS[task].family) for task in tasks})
    for task in tasks:
        run(task)
    rows, costs = GRID.finished(), COMPUTE.finished()
    for heads, body in ((HEADS, lines(rows, costs)), (EQUAL_HEADS, equal_lines(rows))):
        table = Table(*heads)
        for line in body:
            table.add_row(*line)
        Console(width=140).print(table)
    draw(rows, GRID.out / "late.png" if QUICK else Path("docs/results/late.png"))
    GRID.keep(rows, bars(rows))


def run(task: str) -> None:
    """Run the unfinished cells of a task, one method after another, then those at equal compute."""
    chosen: Recipes = {}
    costs: dict[str, Row] = {}
    for name in [name for name in NAMES if name in SOME_METHODS.get(task, FEWER)]:
        chosen |= tune([(TUNED_ON.get(task, task), name)], OWN_TUNING.get(name, TUNED_AT), COMPARED)
        cells = at_equal_steps(chosen, task, name)
        fill(GRID, cells)
        costs |= COMPUTE.fill([c for c in cells if c.seed == 0][:1], compute, shown, at_once=1)
        COMPUTE.keep({**COMPUTE.finished(), **costs}, [])
    fill(
        GRID,
        [
            cell
            for seed in (SEEDS if task == EVERY_SEED else SEEDS[:1])
            for cell in at_equal_compute(chosen, costs, task, seed)
        ],
    )


def fill(grid: Grid, cells: list[Cell]) -> None:
    """Run the cells that are not finished, and keep the rows of all others."""
    rows = grid.fill(cells, partial(measure, grid), shown)
    grid.keep({**grid.finished(), **rows}, [])


def at_equal_steps(chosen: Recipes, task: str, name: str) -> list[Cell]:
    """Return the runs of a method at all lags, the lag of its recipe first."""
    recipe = chosen[TUNED_ON.get(task, task), name]
    if name not in COMPARED.late:
        return [Cell(f"{task}, {name}", task, name, recipe, seed, of=COMPARED) for seed in SEEDS]
    lags = sorted(LAGS if QUICK else SOME_LAGS.get(name, LAGS), key=lambda lag: lag != TUNED_AT)
    return [
        Cell(f"{task}, {name}, lag {lag}", task, name, recipe, seed, lag, of=COMPARED)
        for lag in lags
        for seed in seeds_of(task, name, lag)
    ]


def seeds_of(task: str, name: str, lag: int = TUNED_AT) -> tuple[int, ...]:
    """Return the seeds of a method at a lag."""
    short = task != EVERY_SEED and (task == ONE_SEED or lag != TUNED_AT or name not in THREE_SEEDS)
    return SEEDS[:1] if short else SEEDS


def at_equal_compute(chosen: Recipes, costs: dict[str, Row], task: str, seed: int) -> list[Cell]:
    """Return runs whose stages compute as long as those of the local losses' run."""
    found, local = [], costs[f"{task}, local, seed 0"]["ms"]
    for name in EQUAL.get(task, ()):
        lag = COMPARED.lag_of(name, TUNED_AT)
        place = f"{task}, {name}, seed 0" if lag is None else f"{task}, {name}, lag {lag}, seed 0"
        steps = round(TASKS[task].steps * local / costs[place]["ms"], -1)
        label = f"{task}, {name}, equal compute"
        found.append(
            Cell(label, task, name, chosen[TUNED_ON.get(task, task), name], seed, lag, int(steps), of=COMPARED)
        )
    return found


def shown(row: Row) -> str:
    """Return what the progress says of a row."""
    return row.get("failed") or (f"test {row['test']:.3f}" if "test" in row else f"{row['ms']:.1f} ms")


if __name__ == "__main__":
    main()
