"""Cuts in depth: every method on the same tasks, with the same budget to choose its settings, on the test split.

Three seeds: a perceptron on MNIST with 3 and with 6 cuts, a convolutional net on CIFAR-10, a character LSTM on the Penn
Treebank in 4 stages. One seed: more cuts, a transformer, variants of the methods. Synthetic and delayed gradients are
one step late on every edge (depth.lag=1), as they are at least where stages do not wait; so every cell
repeats bit for bit. At the end the time of a step is measured, one method after another on an idle machine.

DNI_PTB, DNI_MNIST and DNI_CIFAR10 name the folders of the data. Finished cells are read from benchmarks/results, so an
interrupted benchmark continues where it stopped. QUICK=1 takes a few steps; they stay in outputs.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness.cells import DEPTH, Cell
from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, spread
from benchmarks.harness.methods import METHODS, TASKS, Overrides
from benchmarks.harness.tuning import measure, need_data, step_time, tune

SEEDS = (0,) if QUICK else (0, 1, 2)
NAMES = ("backprop", "critic", "delayed") if QUICK else tuple(METHODS)
GRID = Grid("depth", "depth", {"lag": 1})
SPEED = Grid("depth-speed", "depth_speed")
LAG = 1
CORE = ("text", "mnist, 3 cuts", "mnist, 6 cuts", "cifar")
SYNTHETIC = ("DNI", "cDNI", "critic")
#: How far the best synthetic method may be from backprop: points of error, or a share of its bits.
BARS = {"text": 0.02, "mnist, 3 cuts": 0.3, "mnist, 6 cuts": 0.3, "cifar": 1.0}
TUNED_ON = {"mnist, 6 cuts": "mnist, 3 cuts", "mnist, 8 cuts": "mnist, 3 cuts", "text, 8 cuts": "text",
            "transformer": "text"}  # fmt: skip
#: Targets that start from the loss.
LAMBDA_ONE = ("depth=lambda_return", "depth.lambda_depth=1", "depth.max_in_flight=6")
#: Of one seed: a name, the method it varies, and what is changed in it.
VARIANTS: tuple[tuple[str, str, Overrides], ...] = (
    ("critic, complete unlock", "critic", ("depth=synthetic_inputs",)),
    ("critic, updates with p = 0.1", "critic", ("depth=irregular", "depth.update_probability=0.1")),
    ("critic, waits for targets", "critic", ("predictor.depth.eager_loss=false",)),
    ("critic, loss alone", "critic", ("predictor.depth.gradient_weight=0",)),
    ("critic, true targets (mix 1)", "critic", LAMBDA_ONE),
    ("cDNI, true targets (mix 1)", "cDNI", LAMBDA_ONE),
    ("cDNI, replay of 4", "cDNI", ("depth=replay", "depth.replay=4")),
    ("delayed, today's weights", "delayed", ("depth.stash=false",)),
    ("delayed, Nesterov", "delayed", ("optimizer=nesterov",)),
    ("backprop, Nesterov", "backprop", ("optimizer=nesterov",)),
    ("critic, Nesterov", "critic", ("optimizer=nesterov",)),
)

Recipes = dict[tuple[str, str], Overrides]


def recipes() -> Recipes:
    """Choose the recipes, on one task of each family."""
    tasks = [task for task in CORE if task not in TUNED_ON]
    return tune([(task, name) for task in tasks for name in NAMES], LAG)


def cell(chosen: Recipes, task: str, name: str, seed: int, *more: str, label: str = "") -> Cell:
    """Return one run of a method with its recipe."""
    recipe = chosen[TUNED_ON.get(task, task), name]
    return Cell(f"{task}, {label or name}", task, name, recipe, seed, DEPTH.lag_of(name, LAG), more=more)


def core(chosen: Recipes) -> list[Cell]:
    """Return the runs of all methods on all tasks."""
    return [cell(chosen, task, name, seed) for task in CORE for name in NAMES for seed in SEEDS]


def extras(chosen: Recipes) -> list[Cell]:
    """Return the runs with one seed."""
    if QUICK:
        return two_clocks()
    names = [name for name in NAMES if name != "DNI"]
    more = [cell(chosen, task, name, 0) for task in ("mnist, 8 cuts", "text, 8 cuts", "transformer") for name in names]
    variants = [cell(chosen, task, name, 0, *changed, label=label)
                for label, name, changed in VARIANTS for task in ("mnist, 3 cuts", "text")]  # fmt: skip
    slower = cell(chosen, "text", "backprop", 0, "optimizer.learning_rate=4e-3", label="backprop, half the rate")
    gentle = cell(chosen, "mnist, 3 cuts", "critic", 0, "depth=synthetic_inputs", "depth.input_learning_rate=1e-3",
                  label="critic, complete unlock, inputs at 1e-3")  # fmt: skip
    return [*two_clocks(), *more, gentle, *variants, slower]


def two_clocks() -> list[Cell]:
    """Return the runs of two networks: with the true gradient of the message, a synthetic one, and none."""
    task, rates = "two clocks", "depth=multi_rate"
    return [
        Cell(f"{task}, backprop", task, "backprop", (), 0, more=("depth=multi_rate_backprop",)),
        Cell(f"{task}, critic", task, "critic", (), 0, LAG, more=(rates,)),
        Cell(
            f"{task}, no gradient of the message", task, "critic", (), 0, LAG, more=(rates, "predictor.depth.scale=0")
        ),
    ]


def main() -> None:
    """Choose the recipes, run the unfinished cells, print the tables and the bars."""
    need_data({"text", "mnist", "cifar"})
    chosen = recipes()
    cells = core(chosen) + extras(chosen)
    rows = GRID.fill(cells, partial(measure, GRID), lambda row: row.get("failed") or f"test {row['test']:.3f}")
    timed = [c for c in core(chosen) if c.seed == 0]
    speed = SPEED.fill(timed, step_time, lambda row: f"{row['ms']:.1f} ms", at_once=1)
    SPEED.keep(speed, [])
    for heads, body in ((HEADS, lines(rows, speed)), (EXTRA_HEADS, extra_lines(rows))):
        table = Table(*heads)
        for line in body:
            table.add_row(*line)
        Console(width=140).print(table)
    draw(rows, speed, GRID.out / "curves.png" if QUICK else Path("docs/results/depth.png"))
    GRID.keep(rows, bars(rows))


HEADS = ["task", "method", "test", "by seed", "validation", "cosine by cut", "ms a step", "over backprop"]


def lines(rows: dict[str, Row], speed: dict[str, Row]) -> list[list[str]]:
    """Return the core's table: mean and spread over seeds, and the time of a step."""
    found = []
    groups = by_seed(rows)
    for task in CORE:
        for name in NAMES:
            members = groups.get(f"{task}, {name}", [])
            good = [row for row in members if "test" in row]
            ms, whole = (speed[f"{task}, {m}, seed 0"]["ms"] for m in (name, "backprop"))
            found.append([
                f"{task} ({TASKS[task].unit}{' %' if TASKS[task].unit == 'error' else ''})", name,
                spread([row["test"] for row in good], digits(task)) if good else "diverged",
                " ".join(number(row.get("test"), digits(task)) for row in members),
                spread([row["curve"][-1][1] for row in good], digits(task)), cosines(good),
                f"{ms:.1f}", f"{ms / whole:.2f}",
            ])  # fmt: skip
    return found


EXTRA_HEADS = ["task", "method", "test", "cosine by cut"]


def extra_lines(rows: dict[str, Row]) -> list[list[str]]:
    """Return the table of the runs with one seed."""
    names = [name for name in rows if name.endswith(", seed 0")]
    found = []
    for name in names:
        label = name.removesuffix(", seed 0")
        task = max((t for t in TASKS if label.startswith(f"{t}, ")), key=len)
        method = label.removeprefix(f"{task}, ")
        if task not in CORE or method not in METHODS:
            test = rows[name].get("test")
            found.append([f"{task} ({TASKS[task].unit})", method, number(test, digits(task)), cosines([rows[name]])])
    return found


def digits(task: str) -> int:
    """Return the decimal places of a figure of the task."""
    return 2 if TASKS[task].unit == "error" else 3


def number(value: float | None, places: int) -> str:
    """Return a cell of a table."""
    return "diverged" if value is None else f"{value:.{places}f}"


def cosines(members: list[Row]) -> str:
    """Return the cosine with the target at each cut, mean over runs; empty if nothing is predicted."""
    cuts = list(zip(*(row.get("cosine", []) for row in members), strict=True))
    return (
        " ".join("-" if None in cut else f"{statistics.mean(cut):.2f}" for cut in cuts).replace("- -", "-").strip("- ")
    )


def draw(rows: dict[str, Row], speed: dict[str, Row], path: Path) -> None:
    """Draw validation against steps and against seconds, mean over seeds."""
    figure = Figure(figsize=(10, 3 * len(CORE)), layout="constrained")
    axes = figure.subplots(len(CORE), 2, squeeze=False)
    groups = by_seed(rows)
    for place, task in enumerate(CORE):
        for name in NAMES:
            curves = [row["curve"] for row in groups.get(f"{task}, {name}", []) if "curve" in row]
            points = [[statistics.mean(at) for at in zip(*same, strict=True)] for same in zip(*curves, strict=False)]
            seconds = speed[f"{task}, {name}, seed 0"]["ms"] / 1000
            for axis, factor in zip(axes[place], (1.0, seconds), strict=True):
                axis.plot([p[0] * factor for p in points], [p[1] for p in points], label=name, marker=".")
        what = "validation error (%)" if TASKS[task].unit == "error" else "validation bits per character"
        for axis, unit in zip(axes[place], ("steps", "seconds of this machine, all stages on two cores"), strict=True):
            axis.set(title=task, xlabel=unit, ylabel=what)
            axis.grid(alpha=0.3)
        best = min(row["curve"][-1][1] for row in rows.values() if "curve" in row and row["task"] == task)
        for axis in axes[place]:
            axis.set_ylim(best * 0.95, best * (3 if TASKS[task].unit == "error" else 1.5))
    axes[0][1].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return how far the best synthetic method, by validation, is from backprop."""
    found, groups = [], by_seed(rows)
    for task in CORE:
        tests = {name: [r["test"] for r in groups[f"{task}, {name}"] if "test" in r] for name in NAMES}
        seen = {name: statistics.mean(r["curve"][-1][1] for r in groups[f"{task}, {name}"] if "curve" in r)
                for name in SYNTHETIC if tests.get(name)}  # fmt: skip
        best = min(seen, key=lambda name: seen[name])
        ours, reference = statistics.mean(tests[best]), statistics.mean(tests["backprop"])
        error = TASKS[task].unit == "error"
        value = ours - reference if error else ours / reference - 1
        what = "points of error over backprop's" if error else "share of backprop's bits above them"
        found.append(bar(f"{task}: {best}, {what}", value, BARS[task], value <= BARS[task]))
    for task in () if QUICK else ("mnist, 8 cuts", "text, 8 cuts"):
        critic, local = (rows[f"{task}, {name}, seed 0"].get("test") for name in ("critic", "local"))
        if critic is not None and local is not None:
            found.append(bar(f"{task}: critic over local", critic / local, 1.0, critic <= local))
    return found


if __name__ == "__main__":
    main()
