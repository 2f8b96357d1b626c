"""Loss against seconds: curves by seed, the table, the figure and the bars of `benchmarks.delay.time_to_loss`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure

from benchmarks.delay.run import SYNCHRONOUS
from benchmarks.harness.environment import bar
from benchmarks.harness.grid import Row, by_seed, spread

Points: TypeAlias = list[tuple[float, float]]  #: (seconds, validation bits)
Curves: TypeAlias = dict[str, list[Points]]  #: by method, one for each seed

LOCKED = (*SYNCHRONOUS, "backprop")


def raced(rows: dict[str, Row], delay: int) -> Curves:
    """Return the curves of every method at a delay; the best of a pipeline's M and of `delayed`'s recipes."""
    groups, found = by_seed(rows), Curves()
    for name, seeds in groups.items():
        kind, label = name.split(", ")[:2]
        if kind == "timed":
            rate = seeds[0]["delays"][str(delay)]["updates_per_s"]
            learned = groups[f"learned, {'local' if label == 'local' else 'backprop'}"]
            _keep_better(found, label.split(" ")[0], [in_seconds(row["curve"], rate) for row in learned])
        elif kind == "raced" and name.endswith(f", {delay} ms"):
            curves = [in_seconds(row["curve"], row["updates_per_s"]) for row in seeds]
            _keep_better(found, label.split(" ")[0], curves)
    return found


def _keep_better(found: Curves, name: str, curves: list[Points]) -> None:
    """Keep the curves with the lower final loss, then with the earlier end."""
    if name not in found or _end(curves) < _end(found[name]):
        found[name] = curves


def _end(curves: list[Points]) -> tuple[float, float]:
    return statistics.mean(points[-1][1] for points in curves), statistics.mean(points[-1][0] for points in curves)


def in_seconds(points: Sequence[tuple[int, float]], rate: float) -> Points:
    """Convert steps to seconds of training, without validation."""
    return [(step / rate, bits) for step, bits in points]


def goals(rows: dict[str, Row]) -> list[float]:
    """Return backprop's final validation bits, by seed."""
    return [row["curve"][-1][1] for row in by_seed(rows)["learned, backprop"]]


def reaches(points: Sequence[tuple[float, float]], goal: float) -> float | None:
    """Return when a curve first reaches a loss, interpolated linearly; None if never."""
    for n, (second, bits) in enumerate(points):
        if bits <= goal:
            if n == 0:
                return second
            before, above = points[n - 1]
            return before + (second - before) * (above - goal) / (above - bits)
    return None


def seconds(rows: dict[str, Row], curves: list[Points]) -> list[float] | None:
    """Return when each seed reaches backprop's final loss; None if one does not."""
    found = [reaches(points, goal) for points, goal in zip(curves, goals(rows), strict=True)]
    reached = [second for second in found if second is not None]
    return reached if len(reached) == len(found) else None


def heads(delays: Sequence[int]) -> list[str]:
    """Return the heads of the table."""
    parts = ("s to backprop's loss, {} ms", "ms a step, {} ms", "last bits, {} ms")
    return ["method", *(part.format(delay) for delay in delays for part in parts)]


def lines(rows: dict[str, Row], delays: Sequence[int]) -> list[list[str]]:
    """Return for each method and delay: seconds to backprop's last loss, ms per step, and its own last loss."""
    curves = {delay: raced(rows, delay) for delay in delays}
    steps = by_seed(rows)["learned, backprop"][0]["curve"][-1][0]
    found = []
    for name in curves[delays[0]]:
        line = [name]
        for delay in delays:
            of_seeds = curves[delay][name]
            when, (bits, last) = seconds(rows, of_seeds), _end(of_seeds)
            line += ["never" if when is None else spread(when), f"{1000 * last / steps:.0f}", f"{bits:.3f}"]
        found.append(line)
    return found


def draw(rows: dict[str, Row], delays: Sequence[int], path: Path) -> None:
    """Draw validation against seconds, a panel per delay, a line per seed."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    goal = statistics.mean(goals(rows))
    for axis, delay in zip(figure.subplots(1, len(delays), squeeze=False)[0], delays, strict=True):
        of_methods = raced(rows, delay)
        for colour, (name, curves) in enumerate(of_methods.items()):
            for points in curves:
                axis.plot(*zip(*points, strict=True), label=name if points is curves[0] else None, color=f"C{colour}",
                          linewidth=0.9, linestyle="--" if name in LOCKED else "-")  # fmt: skip
        axis.axhline(goal, color="gray", linewidth=0.8)
        axis.set(title=f"one-way delay {delay} ms", xlabel="seconds of training (emulated accelerator)",
                 ylabel="validation bits per character", ylim=(goal * 0.9, goal * 1.7))  # fmt: skip
        axis.set_xlim(0, max(of_methods[name][0][-1][0] for name in ("synthetic", "gpipe")))
        axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def bars(rows: dict[str, Row], delays: Sequence[int]) -> list[dict[str, Any]]:
    """Return the fastest synchronous schedule's seconds to backprop's loss over those of synthetic gradients, by
    delay."""
    found = []
    for delay in delays:
        of_methods = raced(rows, delay)
        times = {name: seconds(rows, curves) for name, curves in of_methods.items()}
        means = {name: statistics.mean(each) for name, each in times.items() if each is not None}
        ours, first = means.get("synthetic"), min((means[name] for name in LOCKED if name in means), default=None)
        value, aim = _over(first, ours), 1.0 if delay >= 20 else None
        found.append(bar(f"{delay} ms: seconds of the first synchronous schedule over synthetic's", value, aim,
                         None if aim is None else value is not None and value > 1))  # fmt: skip
        for rival in ("local", "delayed"):
            value = _over(means.get(rival), ours)
            found.append(bar(f"{delay} ms: seconds of {rival} over synthetic's", value, None, None))
    return found


def _over(theirs: float | None, ours: float | None) -> float | None:
    return None if theirs is None or ours is None else theirs / ours
