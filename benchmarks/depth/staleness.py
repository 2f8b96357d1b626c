"""Late targets: the result of every method when targets, or gradients per edge, are n steps late (depth.lag).

cDNI, the critic and delayed gradients on the character LSTM and on MNIST with 3 cuts, three seeds; beside them
backprop and local losses, which have no late targets. The "fading critic" is the critic, with targets that count less
the later they are (predictor.depth.staleness_decay=1). Both have ten seeds on MNIST where their bars compare lags:
three seeds differ by more than the bar. Every method's recipe is chosen at lag 8, with the budget of
`benchmarks.depth.methods`, and kept for all lags. Delayed gradients are n steps late per edge: the first of 4 stages
learns from gradients that are 3 n steps old. Test split, after the last step.

DNI_PTB and DNI_MNIST name the folders of the data. Finished cells are read from benchmarks/results, so an interrupted
benchmark continues where it stopped. QUICK=1 takes a few steps; they stay in outputs.
"""

from __future__ import annotations

import statistics
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness.cells import Cell
from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, spread
from benchmarks.harness.methods import TASKS, Overrides
from benchmarks.harness.tuning import measure, need_data, tune

SEEDS = (0,) if QUICK else (0, 1, 2)
LAGS = (0, 1) if QUICK else (0, 1, 2, 4, 8, 16, 32)
GRID = Grid("lag", "lag", {"tuned_at": 8})
STEPS = {"text": 600, "mnist, 3 cuts": 600}
TUNED, PUNCTUAL = ("cDNI", "critic", "delayed"), ("backprop", "local")
#: The critic with its recipe, whose match counts (1 + s)^-1 for targets that are s steps late.
FADING, FADE = "fading critic", ("predictor.depth.staleness_decay=1",)
LATE = ("cDNI", "critic", FADING, "delayed")
CRITICS = ("critic", FADING)
#: More seeds where three differ by more than the bar: the critics on MNIST, at the lags that their bars compare.
MORE_SEEDS, MORE_AT = () if QUICK else tuple(range(3, 10)), (0, 8, 32)


def main() -> None:
    """Choose the recipes, run the unfinished cells, print the table and the bars."""
    need_data({"text", "mnist"})
    rows = GRID.fill(plan(), partial(measure, GRID), lambda row: row.get("failed") or f"test {row['test']:.3f}")
    table = Table(*HEADS)
    for line in lines(rows):
        table.add_row(*line)
    Console(width=140).print(table)
    draw(rows, GRID.out / "lag.png" if QUICK else Path("docs/results/lag.png"))
    GRID.keep(rows, bars(rows))


def plan() -> list[Cell]:
    """Return the cells, seed by seed, so that the first seed is complete early."""
    chosen = tune([(t, m) for m in (*TUNED, *PUNCTUAL) for t in STEPS], 1 if QUICK else 8)
    cells = [c for seed in SEEDS for task in STEPS for c in of_task(chosen, task, seed)]
    more = [c for seed in MORE_SEEDS for c in of_task(chosen, "mnist, 3 cuts", seed) if c.method in CRITICS]
    return cells + [c for c in more if c.lag in MORE_AT]


def of_task(chosen: dict[tuple[str, str], Overrides], task: str, seed: int) -> list[Cell]:
    """Return the cells of all methods at all lags."""
    steps = STEPS[task]
    critic = chosen[task, "critic"]
    return [
        *(Cell(f"{task}, {m}", task, m, chosen[task, m], seed, None, steps) for m in PUNCTUAL),
        *(Cell(f"{task}, {m}, lag {n}", task, m, chosen[task, m], seed, n, steps) for n in LAGS for m in TUNED),
        *(Cell(f"{task}, {FADING}, lag {n}", task, "critic", critic, seed, n, steps, FADE) for n in LAGS),
    ]


HEADS = ["task", "method", *(f"lag {n}" for n in LAGS), "lag 8 over lag 0"]


def lines(rows: dict[str, Row]) -> list[list[str]]:
    """Return the table: mean and spread over seeds."""
    found = []
    for task in STEPS:
        unit = "bits" if TASKS[task].unit == "bits" else "error %"
        for name in PUNCTUAL:
            found.append([f"{task} ({unit})", name, cell_of(rows, f"{task}, {name}"), *("" for _ in LAGS)])
        for name in LATE:
            late, start = tests(rows, f"{task}, {name}, lag 8"), tests(rows, f"{task}, {name}, lag 0")
            ratio = f"{statistics.mean(late) / statistics.mean(start):.3f}" if late and start else "-"
            cells = [cell_of(rows, f"{task}, {name}, lag {n}") for n in LAGS]
            found.append([f"{task} ({unit})", name, *cells, ratio])
    return found


def tests(rows: dict[str, Row], group: str) -> list[float]:
    """Return the figures of a group's runs that did not diverge."""
    return [row["test"] for row in by_seed(rows).get(group, []) if "test" in row]


def cell_of(rows: dict[str, Row], group: str) -> str:
    """Return mean and spread of a group, how many runs diverged, and the number of seeds if it is unusual."""
    good, all_runs = tests(rows, group), by_seed(rows).get(group, [])
    lost = len(all_runs) - len(good)
    parts = [spread(good, 2)] if len(good) > 1 else [f"{value:.2f}" for value in good]
    parts += [f"({lost} diverged)"] if lost else []
    return " ".join(parts + ([f"({len(all_runs)} seeds)"] if len(all_runs) != len(SEEDS) else []))


def draw(rows: dict[str, Row], path: Path) -> None:
    """Draw test figures against the lag."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, task in zip(figure.subplots(1, 2), STEPS, strict=True):
        for name in LATE:
            points = [(n, tests(rows, f"{task}, {name}, lag {n}")) for n in LAGS]
            points = [(n, values) for n, values in points if values]
            spreads = [statistics.stdev(values) if len(values) > 1 else 0 for _, values in points]
            axis.errorbar([n for n, _ in points], [statistics.mean(v) for _, v in points], spreads, marker="o",
                          capsize=3, label=name)  # fmt: skip
        for name, style in zip(PUNCTUAL, ("--", ":"), strict=True):
            axis.axhline(statistics.mean(tests(rows, f"{task}, {name}")), color="black", linestyle=style, label=name)
        axis.set_xscale("symlog", base=2, linthresh=1)
        axis.set_xlim(-0.3, 40)
        error = TASKS[task].unit == "error"
        if error:
            axis.set_yscale("log")
        axis.set(title=task, xlabel="lag (steps; delayed: per edge)", xticks=LAGS, xticklabels=LAGS,
                 ylabel="test error (%)" if error else "test bits per character")  # fmt: skip
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return the bars: the critics at lags 8 and 32 over their own lag 0."""
    found = []
    for task, name, n in product(STEPS, CRITICS, (n for n in LAGS if n in (8, 32))):
        start, late = tests(rows, f"{task}, {name}, lag 0"), tests(rows, f"{task}, {name}, lag {n}")
        value = statistics.mean(late) / statistics.mean(start)
        found.append(bar(f"{task}: {name} at lag {n} over lag 0", value, 1.03, value <= 1.03))
    return found or [bar("lags of a quick run", None, None, None)]


if __name__ == "__main__":
    main()
