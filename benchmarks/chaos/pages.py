"""The tables, the bars and the timeline of `make chaos`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.chaos.disturb import Wound
from benchmarks.chaos.faults import KILLS, KINDS
from benchmarks.chaos.training import EVERY, STAGES, Training
from benchmarks.harness.environment import bar
from benchmarks.harness.grid import spread
from benchmarks.harness.markdown import markdown, source

FAULT_HEADS = [
    "fault", "injected", "the run went on", "other stages started again", "s until back, median", "longest",
]  # fmt: skip
RUN_HEADS = ["run", "bits per character", "steps of each stage", "s"]

Rows = dict[str, dict[str, Any]]

_COLOURS = {"kill": "C3", "process": "C1", "link": "C4", "connection": "C0", "bytes": "C2", "stranger": "C7"}


def faults_of(rows: Rows) -> list[dict[str, Any]]:
    """Return the faults of all runs."""
    return [fault for row in rows.values() for fault in row.get("faults", [])]


def kills_of(rows: Rows) -> list[dict[str, Any]]:
    """Return the killed stages of all runs."""
    return [kill for row in rows.values() for kill in row.get("kills", [])]


def bits_of(rows: Rows, kind: str) -> list[float]:
    """Return the last validation figures of the disturbed or the undisturbed runs."""
    return [row["bits"] for name, row in rows.items() if name.startswith(f"{kind},") and row.get("bits")]


def faults_table(results: dict[str, Any]) -> str:
    """Return what became of the faults, by kind."""
    every = faults_of(results["rows"])
    lines = []
    for kind in KINDS:
        mine = [fault for fault in every if fault["kind"] == kind]
        back = [fault["back"] - fault["end"] for fault in mine if fault["back"] is not None]
        went_on = sum(fault["ended"] is None and not fault["hung"] for fault in mine)
        times = [f"{statistics.median(back):.1f}", f"{max(back):.1f}"] if back else ["-", "-"]
        restarted = sum(fault["survivors_restarted"] for fault in mine)
        lines.append([kind, str(len(mine)), str(went_on), str(restarted), *times])
    note = (
        f"Seconds from the end of the fault until the last stage has trained a step that was begun after it. "
        f"SEED={results['seed']}. Other work ran meanwhile: load average {results['load']:g} at the start. "
        f"{source(results)}"
    )
    return f"{markdown(FAULT_HEADS, lines)}\n\n{note}"


def bars_table(results: dict[str, Any]) -> str:
    """Return the bars."""
    words = {True: "held", False: "missed", None: ""}
    lines = [
        [line["bar"], figure(line["value"]), figure(line["goal"]), words[line["holds"]]] for line in results["bars"]
    ]
    return markdown(["figure", "value", "goal", ""], lines)


def runs_table(results: dict[str, Any]) -> str:
    """Return the end of every run."""
    lines = [
        [
            name, "-" if row["bits"] is None else f"{row['bits']:.3f}",
            " / ".join(map(str, row.get("trained", [row["steps"]] * STAGES))), f"{row['wall_s']:.0f}",
        ]
        for name, row in results["rows"].items() if "bits" in row
    ]  # fmt: skip
    means = ", ".join(f"{kind} {spread(bits_of(results['rows'], kind), 3)}" for kind in ("disturbed", "undisturbed"))
    return f"{markdown(RUN_HEADS, lines)}\n\nMean ± standard deviation: {means}."


def figure(value: float | None) -> str:
    """Format a figure of a bar."""
    return "" if value is None else f"{value:g}" if value == int(value) else f"{value:.2f}"


def bars_of(rows: Rows) -> list[dict[str, Any]]:
    """Print and return the bars."""
    faults, killed = faults_of(rows), kills_of(rows)
    total = {name: sum(row.get(name, 0) for row in rows.values()) for name in ("hangs", "orphans", "twice", "left_out")}
    lost = {
        damaged: [k["lost_updates"] for k in killed if (k["kind"] != "kill") is damaged] for damaged in (False, True)
    }
    rates = [rate for kill in killed for rate in kill["rates"]]
    with_, without = bits_of(rows, "disturbed"), bits_of(rows, "undisturbed")
    more = statistics.mean(with_) - statistics.mean(without) if with_ and without else None
    noise = 2 * statistics.stdev(without) if len(without) > 1 else None
    zeros = {
        "stages started again that had not been killed": sum(fault["survivors_restarted"] for fault in faults),
        "runs ended by a fault": sum(fault["ended"] is not None for fault in faults),
        "hangs": total["hangs"], "processes left behind": total["orphans"], "steps trained twice": total["twice"],
        "steps left out by stages that had input": total["left_out"],
    }  # fmt: skip
    return [
        bar("faults injected", len(faults), 200, len(faults) >= 200),
        *(bar(name, value, 0, value == 0) for name, value in zeros.items()),
        _at_most(f"updates lost by a killed stage, most; a checkpoint every {EVERY}", lost[False], EVERY),
        bar("updates lost by a killed stage whose newest checkpoint was damaged, most", max(lost[True], default=None),
            None, None),
        _at_most("seconds until a killed stage is missed, longest", [kill["noticed_s"] for kill in killed], 3.0),
        _at_most("seconds until a killed stage is back, longest", [kill["away_s"] for kill in killed], 5.0),
        bar("seconds until a killed stage is back, median", _median([kill["away_s"] for kill in killed]), None, None),
        bar("bits per character more than undisturbed, mean", more, noise,
            None if more is None or noise is None else more <= noise),
        bar("rate of the stages before a dead one over their usual rate, median", _median(rates), 0.9,
            (_median(rates) or 0.0) >= 0.9),
        bar("rate of the stages before a dead one over their usual rate, lowest", min(rates, default=None), None, None),
    ]  # fmt: skip


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _at_most(name: str, values: Sequence[float], goal: float) -> dict[str, Any]:
    longest = max(values, default=None)
    return bar(name, longest, goal, None if longest is None else longest <= goal)


def timeline(run: Training, wounds: Sequence[Wound], start: float, path: Path) -> None:
    """Draw how many steps every stage has trained against seconds, with the faults."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    steps, marks = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for stage, points in run.seen.items():
        every = max(1, len(points) // 2000)
        steps.plot([at - start for at, _ in points[::every]], range(1, len(points) + 1, every), label=f"stage {stage}")
    for wound in wounds:
        word = wound.fault.kind.split(",")[0].split(" ")[0]
        shape = "x" if wound.fault.kind in KILLS else "|"
        marks.plot(wound.end, wound.fault.stage, shape, color=_COLOURS[word.removesuffix("ed")], markersize=7)
        if wound.fault.kills:
            steps.axvline(wound.end, color="C3", linewidth=0.5, alpha=0.5)
    for word, colour in _COLOURS.items():
        marks.plot([], [], "x" if word == "kill" else "|", color=colour, label=word)
    steps.set(ylabel="steps trained", title="steps that each stage has trained; red lines: a stage is killed")
    steps.legend(fontsize="small")
    marks.set(xlabel="seconds", ylabel="fault at stage", yticks=range(STAGES), ylim=(STAGES - 0.5, -0.5))
    marks.legend(fontsize="x-small", ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
