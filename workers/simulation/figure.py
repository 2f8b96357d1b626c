"""Draw updates per second against the delay of the links: one colour per method, one dash per window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from workers.simulation.model import ASYNCHRONOUS, METHODS, Prediction
from workers.tracking.palette import COLOURS, DASHES

_COLOURS = dict(zip(METHODS, ("#000000", *COLOURS[:6], "#999999"), strict=True))


def label(prediction: Prediction) -> str:
    """Return a method's name with its window, if it has one."""
    if prediction.window is not None:
        return f"{prediction.method}, W={prediction.window}"
    return prediction.method


def draw(predictions: Sequence[Prediction], title: str, path: Path) -> None:
    """Write the figure. Raises OSError."""
    figure = Figure(figsize=(7.2, 5.4), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlabel="one-way delay of a link (ms)", ylabel="updates per second")
    windows = sorted({p.window for p in predictions if p.window is not None})
    for name in dict.fromkeys(map(label, predictions)):
        line = [p for p in predictions if label(p) == name]
        dash = "-" if line[0].window is None else DASHES[windows.index(line[0].window) % len(DASHES)]
        marker = "o" if line[0].method in ASYNCHRONOUS else "s"
        x, y = [p.delay_s * 1e3 for p in line], [p.updates_per_s for p in line]
        width = 4.0 if line[0].method == "synthetic" else 1.5  # local is often as fast and would hide it
        (drawn,) = axes.plot(x, y, dash, color=_COLOURS[line[0].method], linewidth=width, label=name)
        drawn.set(marker=marker, markersize=width + 2.5)
    axes.set_yscale("log")
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=3)
    figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else None)
