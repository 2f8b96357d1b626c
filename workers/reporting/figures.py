"""Draw the curves of the report: losses, validation, probes, utilisation. One colour per group of runs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workers.reporting.aggregate import Group, unit_of, value
from workers.reporting.curves import AXES, curve, smoothed
from workers.tracking.palette import COLOURS, DASHES
from workers.tracking.run import Run

HATCHES = ("", "//", "..", "xx")


def _axes(title: str, groups: Sequence[Group], x_label: str, y_label: str, width: float = 6.4) -> Axes:
    figure = Figure(figsize=(width, 4.2 + 0.25 * len(groups)), dpi=150, layout="constrained")
    methods = list(dict.fromkeys(m.replace(" ", "\N{NO-BREAK SPACE}") for group in groups for m in group.methods))
    named = ", ".join(methods[:4] + ([f"{len(methods) - 4} more"] if len(methods) > 4 else []))
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.set_title(_plain(f"{title}: {groups[0].task}\n{textwrap.fill(named, round(11 * width))}"), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    return axes


def _look(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # no formulas in labels


def _validation(groups: Sequence[Group]) -> Axes:
    unit = unit_of(groups)
    key = "loss" if unit else "bits_per_label"
    axes = _axes("Validation", groups, "step", f"validation loss ({unit or 'bits'} per label)")
    for index, group in enumerate(groups):
        points = pd.concat([curve(run, "valid", "step", key) for run in group.runs])
        by_step, (colour, dash) = points.groupby("step")[key], _look(index)
        everywhere = by_step.count() == len(group.runs)  # a mean over fewer runs would jump at the end of one
        mean, sd = by_step.mean()[everywhere], by_step.std()[everywhere]
        if len(mean):
            axes.plot(mean, color=colour, linestyle=dash, marker="o", markersize=4, label=_plain(group.label))
            axes.fill_between(mean.index, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
    return axes


def _training(groups: Sequence[Group], x: str, x_label: str) -> Axes:
    axes = _axes("Training", groups, x_label, f"training loss ({unit_of(groups) or 'nats'} per label)")
    for index, group in enumerate(groups):
        colour, dash = _look(index)
        curves = [c for run in group.runs if len(c := curve(run, "train", x, "loss"))]
        for number, points in enumerate(curves):
            smooth = smoothed(list(points["loss"]), max(2, len(points) // 30))
            label = _plain(group.label) if number == 0 else ""
            axes.plot(points[x], points["loss"], color=colour, alpha=0.25, linewidth=0.7)
            axes.plot(points[x], smooth, color=colour, linestyle=dash, label=label)
    return axes


def _probes(groups: Sequence[Group]) -> Axes:
    axes = _axes("Probes", groups, "step", "cosine of the parameters' gradient with the exact one")
    for index, group in enumerate(groups):
        records = [r for run in group.runs for r in run.metrics if r.get("kind") == "probe"]
        found = pd.DataFrame(records, columns=["step", "parameters"]).astype(float).dropna()
        mean, (colour, dash) = found.groupby("step")["parameters"].mean(), _look(index)
        if len(mean):
            axes.plot(mean, color=colour, linestyle=dash, marker="o", markersize=4, label=_plain(group.label))
    return axes


def _utilisation(groups: Sequence[Group]) -> Axes:
    busy = [pd.DataFrame([_busy(run) for run in group.runs]).astype(float) * 100 for group in groups]
    stages = sorted({stage for frame in busy for stage in frame.columns})
    width = max(6.4, 0.16 * len(stages) * len(groups))
    axes = _axes("Utilisation", groups, "stage", "time not spent waiting (%)", width)
    for index, (group, frame) in enumerate(zip(groups, busy, strict=True)):
        at = [stage + 0.8 * (index + 0.5) / len(groups) - 0.4 for stage in frame.columns]
        hatch = HATCHES[index // len(COLOURS) % len(HATCHES)]
        axes.bar(
            at,
            frame.mean(),
            0.76 / len(groups),
            color=_look(index)[0],
            hatch=hatch,
            label=_plain(group.label),
        )
        axes.errorbar(at, frame.mean(), frame.std(), fmt="none", ecolor="#444444", capsize=2)
    axes.set(xticks=stages, ylim=(0, 105))
    return axes


def _busy(run: Run) -> dict[int, float | None]:
    return {entry["index"]: value(entry, ["busy"]) for entry in (run.summary or {}).get("stage", [])}


def draw(groups: Sequence[Group], out: Path, prefix: str = "") -> dict[str, str]:
    """Write the figures of one task into `out`, as PNG and SVG; return captions by the name of the PNG.

    Figures without data and runs that have diverged are left out.
    """
    groups = [group for group in groups if group.runs]
    if not groups:
        return {}
    thin = "Thin: as recorded; thick: centred running mean; one line per run."
    drawn = {
        "valid.png": (
            _validation(groups),
            "Validation: mean over the runs at steps that all runs have; band: one standard deviation.",
        ),
        **{
            f"train_{axis.file}.png": (_training(groups, axis.key, axis.label), f"Training loss by {axis.file}. {thin}")
            for axis in AXES
        },
        "probe.png": (
            _probes(groups),
            "Cosine of the parameters' gradient at the time cut with the exact gradient.",
        ),
        "utilisation.png": (
            _utilisation(groups),
            "Busy share of each stage: mean and one standard deviation.",
        ),
    }
    filled = {name: pair for name, pair in drawn.items() if pair[0].has_data()}
    for name, (axes, _) in filled.items():
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)  # below the axes, never on them
        figure.savefig(out / f"{prefix}{name}", metadata={"Software": None})
        with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(out / f"{prefix}{Path(name).stem}.svg", metadata={"Date": None})
    return {f"{prefix}{name}": caption for name, (_, caption) in filled.items()}
