"""The demonstration: train one model three ways, in four processes over gRPC, without and with a slow link.

It announces its duration, prints the time left before every run, and ends with one table. It writes the table, figures
and report.html to outputs/demo/<time>/. QUICK=1 takes only a few steps, whose figures mean nothing; RECORD=1 also keeps
the figures in benchmarks/results/demo.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import RESULTS, bar, environment, write
from benchmarks.harness.runs import run_to_the_end
from benchmarks.time_left import TimeLeft, minutes
from dni.data.text import load_text
from dni.metrics.fit import ngram_bits
from workers.reporting.report import report

METHODS = (("backprop", "truncated"), ("synthetic", "truncated"), ("synthetic", "synthetic"))
QUICK = os.environ.get("QUICK") == "1"
STEPS, SLOW_STEPS, DELAY_MS = (30, 20, 50) if QUICK else (1500, 60, 50)
CHARACTERS = 32 * 32  #: per step
START_S = 10.0  #: overhead of a run: four processes, the data, the final validation

console = Console(width=max(Console().width, 124))


def main() -> None:
    """Train, compare, print. Exit with the code of the first run that fails, else 0."""
    out = Path("outputs") / "demo" / time.strftime("%Y-%m-%d_%H-%M-%S")
    started, left = time.monotonic(), TimeLeft(expected_s())
    console.print(announcement(left), soft_wrap=True)
    rows = [row(out, depth, time_method, left) for depth, time_method in METHODS]
    report([str(out / folder_name(*method)) for method in METHODS], out)
    results = {
        "rows": rows, "ngrams": ngrams(), "wall_s": time.monotonic() - started, "environment": environment(),
        "steps": STEPS, "slow_steps": SLOW_STEPS, "delay_ms": DELAY_MS, "seed": 0,
    }  # fmt: skip
    results["bars"] = bars(rows)
    show(results, out)
    write(out / "demo.json", results)
    if os.environ.get("RECORD") == "1" and not QUICK:
        write(RESULTS / "demo.json", results)


def expected_s() -> list[float]:
    """Return the seconds of each run, in the order of `row`, from the recorded rates of the recording machine."""
    recorded, found = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8")), []
    for (depth, _), line in zip(METHODS, recorded["rows"], strict=True):
        fast, slow = line["characters_per_s"], line["characters_per_s_slow"]
        late = [(STEPS, slow)] if depth == "synthetic" else []
        found += [START_S + steps * CHARACTERS / rate for steps, rate in [(STEPS, fast), (SLOW_STEPS, slow), *late]]
    return found


def announcement(left: TimeLeft) -> str:
    """Return a line on the number of runs and their duration."""
    machine = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))["environment"]["machine"]
    return (
        f"{len(left.expected)} runs of one model, then one table: {minutes(left.left_s)} on the machine of the "
        f"recorded figures ({machine}). From the second run on, the time left is measured here."
    )


def row(out: Path, depth: str, time_method: str, left: TimeLeft) -> dict[str, Any]:
    """Train one method: in full, for a few steps over the slow link, and in full over the slow link if that differs."""
    folder, delay = out / folder_name(depth, time_method), f"transport.delay_ms={DELAY_MS}"
    fast = run(left, folder, depth, time_method, f"steps={STEPS}")
    slow = run(  # no warm-up: every step does all its work
        left, Path(f"{folder}-{DELAY_MS}ms"), depth, time_method, f"steps={SLOW_STEPS}", delay, "evaluate.every=null",
        "evaluate.windows=4", "predictor.depth.warmup=0",
    )  # fmt: skip
    late = fast  # locked stages learn the same at any delay, bit for bit
    if depth == "synthetic":
        late = run(left, Path(f"{folder}-{DELAY_MS}ms-whole"), depth, time_method, f"steps={STEPS}", delay)
    return {
        "method": f"{depth} + {time_method}",
        "valid_bits": fast["valid"]["bits_per_label"],
        "valid_bits_slow": late["valid"]["bits_per_label"],
        "characters_per_s": fast["tokens_per_s"],
        "characters_per_s_slow": slow["tokens_per_s"],
        "busy": [stage["busy"] for stage in fast["stage"]],
        "busy_slow": [stage["busy"] for stage in slow["stage"]],
        "staleness": [stage["staleness_mean"] for stage in fast["stage"][:-1]],
        "staleness_slow": [stage["staleness_mean"] for stage in late["stage"][:-1]],
        "wall_s": fast["wall_s"],
        "sha256": fast["data"]["sha256"],
    }


def folder_name(depth: str, time_method: str) -> str:
    """Return the folder of a method's runs inside the output folder."""
    return f"{depth}-{time_method}"


def run(left: TimeLeft, folder: Path, *settings: str) -> dict[str, Any]:
    """Run `dni-train` in a folder of its own and return its summary. Exits if the run fails."""
    depth, time_method, *rest = settings
    overrides = ["experiment=demo", f"depth={depth}", f"time={time_method}", *rest]
    console.rule(str(left))
    console.print(" ".join(overrides), soft_wrap=True, highlight=False)
    command = [sys.executable, "-m", "workers", *overrides, f"hydra.run.dir={folder}"]
    ended, _ = run_to_the_end(command)
    if ended:
        console.print(f"stopped: {' '.join(overrides)} ended with exit code {ended}; see {folder}")
        sys.exit(ended)
    left.finished()
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def ngrams() -> dict[str, float]:
    """Return validation bits per character of n-gram models, add-0.1, on the same split."""
    text = load_text()
    names = {1: "unigram", 2: "bigram", 3: "trigram"}
    return {name: ngram_bits(text.train, text.valid, n, len(text.symbols)) for n, name in names.items()}


def show(results: dict[str, Any], out: Path) -> None:
    """Print the table and its conditions."""
    at, digest = results["environment"], results["rows"][0]["sha256"][:16]
    text = f"Text: Python {at['python']}'s own manual, sha256 {digest}…"
    table = Table(
        title=f"4-stage character LSTM, 4 processes over gRPC, W = 8, {results['steps']} steps, seed 0",
        caption=f"{text}; {at['machine']}; {results['wall_s']:.0f} s.\nPictures and report: {out}/report.html",
        caption_justify="left",
    )
    slow = f"at {DELAY_MS} ms"
    numbers = ("bits/char\nat 0 ms", f"bits/char\n{slow}", "char/s\nat 0 ms", f"char/s\n{slow}")
    others = ("busy per stage\nat 0 ms", f"busy per stage\n{slow}", "staleness\nat 0 ms", f"staleness\n{slow}")
    table.add_column("depth + time")
    for heading in numbers:
        table.add_column(heading, justify="right")
    for heading in others:
        table.add_column(heading)
    for line in results["rows"]:
        table.add_row(
            line["method"], f"{line['valid_bits']:.3f}", f"{line['valid_bits_slow']:.3f}",
            f"{line['characters_per_s']:,.0f}", f"{line['characters_per_s_slow']:,.0f}",
            shares(line["busy"]), shares(line["busy_slow"]), ages(line["staleness"]), ages(line["staleness_slow"]),
        )  # fmt: skip
    for name, value in results["ngrams"].items():
        table.add_row(f"{name}, counted", f"{value:.3f}")
    console.print(table)


def shares(busy: list[float]) -> str:
    """Format the stages' busy fractions, in percent."""
    return " ".join(f"{share:.0%}" for share in busy)


def ages(staleness: list[float | None]) -> str:
    """Format the stages' mean staleness, in steps."""
    return " ".join("-" if age is None else f"{age:.1f}" for age in staleness)


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bars that the demonstration must meet, each a line of JSON."""
    locked, *synthetic = rows
    found = []
    for line in rows:
        found.append(
            bar(f"{line['method']}: validation bits/char", line["valid_bits"], 2.25, line["valid_bits"] <= 2.25)
        )
    for line in synthetic:
        for where, key in (("0", "valid_bits"), (str(DELAY_MS), "valid_bits_slow")):
            ratio = line[key] / locked[key]
            found.append(bar(f"{line['method']}: bits over backprop's at {where} ms", ratio, 1.03, ratio <= 1.03))
        faster = line["characters_per_s_slow"] / locked["characters_per_s_slow"]
        found.append(bar(f"{line['method']}: rate over backprop's at {DELAY_MS} ms", faster, 4.0, faster >= 4))
    return found


if __name__ == "__main__":
    main()
