"""The tables, the figure and the bars of the comparison under late gradients."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Row, by_seed, errors_ahead, spread
from benchmarks.harness.late_methods import COMPARED, CORRECTED, METHODS, TASKS

LAGS = (1,) if QUICK else (1, 8, 32)
#: The tasks and methods that are compared at equal compute with local losses.
EQUAL: dict[str, tuple[str, ...]] = {
    "gpt, 4 stages": ("backprop", "local + linear head", *CORRECTED[:2]),
    "text": ("backprop", "local + linear head", *CORRECTED[:2]),
}
if QUICK:
    EQUAL = {"mnist, 3 cuts": ("backprop", "corrected")}
#: How far the recommended setting at lag 8 may be from backprop: points of error, or a share of its bits.
BARS = {
    "gpt, 4 stages": 0.01, "gpt, 8 stages": 0.01, "gpt, small text": 0.01, "text": 0.0,
    "mnist, 3 cuts": 0.3, "mnist, 6 cuts": 0.3, "cifar": 1.0, "residual net": 1.0,
}  # fmt: skip
#: Largest figure that is drawn, as a multiple of backprop's, by unit.
HIGHEST = {"bits": 1.06, "error %": 1.3}
HEADS = ["task", "method", "never late", *(f"lag {n}" for n in LAGS), "compute of a step"]


def lines(rows: dict[str, Row], costs: dict[str, Row]) -> list[list[str]]:
    """Return the table: mean and spread over seeds."""
    found = []
    for task in TASKS:
        for name in METHODS:
            groups = [f"{task}, {name}", *(f"{task}, {name}, lag {n}" for n in LAGS)]
            cells = [cell_of(rows, group, digits(task)) for group in groups]
            if any(cells):
                found.append([f"{task} ({unit(task)})", name, *cells, cost_of(costs, task, name)])
    return found


EQUAL_HEADS = ["task", "method", "steps", "test", "by seed"]


def equal_lines(rows: dict[str, Row]) -> list[list[str]]:
    """Return the table at equal compute."""
    found = []
    for task, names in EQUAL.items():
        for group in (f"{task}, local", *(f"{task}, {name}, equal compute" for name in names)):
            good = finished(rows, group)
            if good:
                tests = [row["test"] for row in good]
                found.append([
                    f"{task} ({unit(task)})", group.removeprefix(f"{task}, ").removesuffix(", equal compute"),
                    str(good[0]["curve"][-1][0]), cell_of(rows, group, digits(task)),
                    " ".join(f"{value:.{digits(task)}f}" for value in tests),
                ])  # fmt: skip
    return found


def finished(rows: dict[str, Row], group: str) -> list[Row]:
    """Return the runs of a group that did not diverge."""
    return [row for row in by_seed(rows).get(group, []) if "test" in row]


def cell_of(rows: dict[str, Row], group: str, places: int) -> str:
    """Return mean and spread of a group (one seed: its figure), and how many runs diverged; empty without runs."""
    good, lost = finished(rows, group), len([row for row in by_seed(rows).get(group, []) if "failed" in row])
    tests = [row["test"] for row in good]
    parts = [spread(tests, places) if len(tests) > 1 else f"{tests[0]:.{places}f}"] if good else []
    return " ".join([*parts, *([f"({lost} diverged)"] if lost else [])])


def cost_of(costs: dict[str, Row], task: str, name: str) -> str:
    """Return the compute of a step of all stages over backprop's; empty if it is not measured."""
    every = {label.rpartition(", seed ")[0].partition(", lag ")[0]: row["ms"] for label, row in costs.items()}
    mine, whole = every.get(f"{task}, {name}"), every.get(f"{task}, backprop")
    return f"{mine / whole:.2f}" if mine and whole else ""


def unit(task: str) -> str:
    """Return the unit of a task's figures."""
    return "bits" if TASKS[task].unit == "bits" else "error %"


def digits(task: str) -> int:
    """Return the decimal places of a figure of the task."""
    return 3 if TASKS[task].unit == "bits" else 2


def draw(rows: dict[str, Row], path: Path) -> None:
    """Draw test figures against the lag, mean over seeds, up to a limit; methods that are never late as lines."""
    tasks = [task for task in TASKS if finished(rows, f"{task}, backprop")]
    figure = Figure(figsize=(10, 3.2 * ((len(tasks) + 1) // 2)), layout="constrained")
    axes = figure.subplots((len(tasks) + 1) // 2, 2, squeeze=False).flatten()
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    for axis, task in zip(axes, tasks, strict=False):
        for name in METHODS:
            if name not in COMPARED.late:
                level = finished(rows, f"{task}, {name}")
                style = {"backprop": "--", "local": ":"}.get(name, "-.")
                if level:
                    axis.axhline(statistics.mean(r["test"] for r in level), color="black", linestyle=style, label=name)
                continue
            points = [(n, finished(rows, f"{task}, {name}, lag {n}")) for n in LAGS]
            points = [(n, good) for n, good in points if good]
            means = [statistics.mean(row["test"] for row in good) for _, good in points]
            axis.plot([n for n, _ in points], means, marker="o", label=name)
        axis.set(title=task, xlabel="lag (steps; delayed: per edge)", ylabel=f"test ({unit(task)})")
        axis.set_xscale("log", base=2)
        axis.set_xlim(min(LAGS) / 1.3, max(LAGS) * 1.3)
        axis.set_xticks(LAGS, [str(n) for n in LAGS])
        most = HIGHEST[unit(task)] * statistics.mean(r["test"] for r in finished(rows, f"{task}, backprop"))
        axis.set_ylim(top=min(axis.get_ylim()[1], most))  # the others would be one line
        axis.grid(alpha=0.3)
    if tasks:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return how far corrected gradients are from backprop, from local losses, and from themselves at another lag."""
    found = [line for task in TASKS for line in bars_of(rows, task, CORRECTED[0])]
    return found or [bar("no task is finished", None, None, None)]


def bars_of(rows: dict[str, Row], task: str, name: str) -> list[dict[str, Any]]:
    """Return the bars of a method on a task; none before it has run at all lags."""
    whole, local = means(rows, f"{task}, backprop"), best_local(rows, task)
    late = {n: finished(rows, f"{task}, {name}, lag {n}") for n in LAGS}
    if whole is None or not all(late.values()) or not local:
        return []
    at = LAGS[min(1, len(LAGS) - 1)]
    ours = statistics.mean(row["test"] for row in late[at])
    value = ours - whole if unit(task) == "error %" else ours / whole - 1
    what = "points of error over backprop's" if unit(task) == "error %" else "share of backprop's bits above them"
    ahead = errors_ahead([row["test"] for row in local], [row["test"] for row in late[at]])
    worst = statistics.mean(r["test"] for r in late[LAGS[-1]]) / statistics.mean(r["test"] for r in late[LAGS[0]])
    return [
        bar(f"{task}: {name} at lag {at}, {what}", value, BARS[task], value <= BARS[task]),
        bar(f"{task}: {name} ahead of the better local losses, in standard errors", ahead, 2.0, ahead > 2.0),
        bar(f"{task}: {name} at lag {LAGS[-1]} over lag {LAGS[0]}", worst, 1.03, worst <= 1.03),
    ]


def best_local(rows: dict[str, Row], task: str) -> list[Row]:
    """Return the runs of the local losses whose mean is lower, of those with one head and with the other."""
    every = [finished(rows, f"{task}, {name}") for name in ("local", "local + linear head")]
    return min((good for good in every if good), key=lambda good: statistics.mean(r["test"] for r in good), default=[])


def means(rows: dict[str, Row], group: str) -> float | None:
    """Return the mean of a group's test figures; None without runs."""
    good = finished(rows, group)
    return statistics.mean(row["test"] for row in good) if good else None
