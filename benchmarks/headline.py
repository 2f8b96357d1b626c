"""Write README's table of headline results and its figure, from the records of other benchmarks."""

from __future__ import annotations

import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.delay import throughput_tables as throughput
from benchmarks.delay import time_to_loss_curves as times
from benchmarks.depth import methods as depths
from benchmarks.harness.environment import RESULTS
from benchmarks.harness.markdown import markdown

PICTURE = RESULTS.parents[1] / "docs" / "loss_against_seconds.svg"
HEADS = [
    "method", "updates/s, 0 ms", "updates/s, 50 ms", "s to backprop's loss, 0 ms", "s to backprop's loss, 50 ms",
    "text, bits", "MNIST, error %", "CIFAR-10, error %",
]  # fmt: skip
PIPELINES = ("gpipe", "1f1b", "interleaved_1f1b", "zero_bubble")
#: A row's head, and its method's names in the records of rates, times and test figures.
METHODS = (
    ("`depth=backprop`, locked", "backprop", "backprop", "backprop"),
    ("`depth=synthetic`, critic", "synthetic, W=8", "synthetic", "critic"),
    ("`depth=local`", "local, W=8", "local", "local"),
    ("`depth=delayed`", "delayed, W=32", "delayed", "delayed"),
)
TASKS = ("text (bits)", "mnist, 3 cuts (error %)", "cifar (error %)")
DELAYS = (0, 50)
#: Curves in the figure and the position of each label: seconds, bits.
DRAWN = {
    "synthetic": (67, 2.01), "local": (54, 2.12), "delayed": (72, 2.64), "gpipe": (150, 2.34), "backprop": (262, 2.34),
}  # fmt: skip
PICTURE_DELAY = 20


def headline(race: dict[str, Any]) -> str:
    """Return the table of rates, seconds to backprop's loss and test figures, one row per method."""
    links, depth = record("links"), record("depth")
    rates = {line[0]: line[1:] for line in throughput.rates(links["rows"], DELAYS)}
    reached = {line[0]: line[1::3] for line in times.lines(race["rows"], DELAYS)}
    tests = {(line[0], line[1]): line[2] for line in depths.lines(depth["rows"], record("depth_speed")["rows"])}
    rows = [
        [head, *rates[rate], *reached[name], *(tests[task, method] for task in TASKS)]
        for head, rate, name, method in METHODS
    ]
    rows.insert(1, ["the fastest of torch's pipelines", *_fastest(rates), *_first(reached), *["as backprop"] * 3])
    quick, slow = links["emulated_ms"], race["emulated_ms"]
    note = (
        f"{links['stages']} stages on {links['stages']} emulated hosts; 0 and 50 ms are the one-way delay of every "
        f"link. Emulated passes (forward, backward): {quick['forward']:g} and {quick['backward']:g} ms for the "
        f"updates, {slow['forward']:g} and {slow['backward']:g} ms for the seconds. Frames in flight for the updates: "
        f"W = 8, `delayed` 32. Test figures: mean ± standard deviation over three seeds, late gradients exactly "
        f"{depth['lag']} step late per edge."
    )
    return f"{markdown(HEADS, rows)}\n\n{note}"


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _fastest(rates: dict[str, list[str]]) -> list[str]:
    """Return the highest rate of a pipeline at each delay, with its name."""
    found = []
    for n in range(len(DELAYS)):
        best = max(PIPELINES, key=lambda name: float(rates[name][n].split()[0]))
        found.append(f"{rates[best][n].split()[0]} ({best})")
    return found


def _first(reached: dict[str, list[str]]) -> list[str]:
    """Return the fewest seconds of a pipeline at each delay, with its name."""
    raced, found = [name for name in PIPELINES if name in reached], []
    for n in range(len(DELAYS)):
        best = min(raced, key=lambda name: float(reached[name][n].split()[0]))
        found.append(f"{reached[best][n]} ({best})")
    return found


def curves(race: dict[str, Any]) -> dict[str, times.Points]:
    """Return validation bits against seconds by method, both averaged over seeds."""
    by_method = times.raced(race["rows"], PICTURE_DELAY)
    return {
        name: [
            (statistics.mean(x for x, _ in at), statistics.mean(y for _, y in at))
            for at in zip(*by_method[name], strict=True)
        ]
        for name in DRAWN
    }


def digest(race: dict[str, Any]) -> str:
    """Return the digest of the figure's points, which is stored in the figure to compare it with the record."""
    points = {name: [[round(x, 6), round(y, 6)] for x, y in line] for name, line in curves(race).items()}
    return hashlib.sha256(json.dumps(points).encode()).hexdigest()


def is_current(path: Path = PICTURE) -> bool:
    """Return whether the figure exists and shows the recorded points."""
    return path.is_file() and digest(record("race")) in path.read_text(encoding="utf-8")


def draw(path: Path = PICTURE) -> None:
    """Draw loss against seconds over links of 20 ms, as an SVG with text."""
    race = record("race")
    goal = statistics.mean(times.goals(race["rows"]))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dni", "font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained", facecolor="white")
        axis = figure.subplots()
        _lines(axis, curves(race))
        axis.axhline(goal, color="gray", linewidth=0.8, linestyle=":")
        axis.text(200, goal - 0.01, "backprop's last loss", color="dimgray", va="top", size=9)
        axis.set(xlim=(0, 360), ylim=(1.95, 3.0), xlabel=f"seconds of training, links of {PICTURE_DELAY} ms one way",
                 ylabel="validation bits per character")  # fmt: skip
        axis.spines[["top", "right"]].set_visible(False)
        described = {"Date": None, "Creator": None, "Description": f"sha256 of the points: {digest(race)}"}
        figure.savefig(path, format="svg", metadata=described)


def _lines(axis: Axes, found: dict[str, times.Points]) -> None:
    for number, (name, points) in enumerate(found.items()):
        axis.plot(*zip(*points, strict=True), color=f"C{number}", linewidth=2)
        axis.annotate(name, DRAWN[name], color=f"C{number}", weight="bold")
