"""The demonstration: one model trained three ways, in four processes over gRPC, without and with a slow link.

Prints one table, writes it with the pictures and report.html to outputs/demo/<time>/. QUICK=1 takes a few steps only
(the figures then mean nothing); RECORD=1 also keeps the figures in benchmarks/results/demo.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, bar, environment, write
from dni.data.text import load_text
from dni.metrics import ngram_bits
from workers.report import report

METHODS = (("backprop", "truncated"), ("synthetic", "truncated"), ("synthetic", "synthetic"))
QUICK = os.environ.get("QUICK") == "1"
STEPS, SLOW_STEPS, DELAY_MS = (30, 20, 50) if QUICK else (1500, 60, 50)

console = Console(width=max(Console().width, 124))


def main() -> None:
    """Train, compare, print. Exit code: that of the first run that did not end well, else 0."""
    out = Path("outputs") / "demo" / time.strftime("%Y-%m-%d_%H-%M-%S")
    started = time.monotonic()
    rows = [row(out, depth, time_method) for depth, time_method in METHODS]
    report([str(out / folder_name(*method)) for method in METHODS], out)
    results = {
        "rows": rows, "ngrams": ngrams(), "wall_s": time.monotonic() - started, "environment": environment(),
        "steps": STEPS, "slow_steps": SLOW_STEPS, "delay_ms": DELAY_MS, "seed": 0,
    }  # fmt: skip
    show(results, out)
    results["bars"] = bars(rows)
    write(out / "demo.json", results)
    if os.environ.get("RECORD") == "1" and not QUICK:
        write(RESULTS / "demo.json", results)


def row(out: Path, depth: str, time_method: str) -> dict[str, Any]:
    """One method: the whole training, then a few steps over the slow link."""
    folder = out / folder_name(depth, time_method)
    fast = run(folder, depth, time_method, f"steps={STEPS}")
    slow = run(
        Path(f"{folder}-{DELAY_MS}ms"), depth, time_method,
        f"steps={SLOW_STEPS}", f"transport.delay_ms={DELAY_MS}", "evaluate.every=null", "evaluate.windows=4",
    )  # fmt: skip
    return {
        "method": f"{depth} + {time_method}",
        "valid_bits": fast["valid"]["bits_per_char"],
        "characters_per_s": fast["tokens_per_s"],
        "characters_per_s_slow": slow["tokens_per_s"],
        "busy": [stage["busy"] for stage in fast["stage"]],
        "busy_slow": [stage["busy"] for stage in slow["stage"]],
        "staleness": [stage["staleness_mean"] for stage in fast["stage"][:-1]],
        "staleness_slow": [stage["staleness_mean"] for stage in slow["stage"][:-1]],
        "wall_s": fast["wall_s"],
        "sha256": fast["data"]["sha256"],
    }


def folder_name(depth: str, time_method: str) -> str:
    """Where the runs of a method lie inside the output folder."""
    return f"{depth}-{time_method}"


def run(folder: Path, *settings: str) -> dict[str, Any]:
    """One `dni-train` run in a folder of its own; returns its summary. A run that fails ends the demonstration."""
    depth, time_method, *rest = settings
    overrides = ["experiment=demo", f"depth={depth}", f"time={time_method}", *rest]
    console.rule(" ".join(overrides))
    command = [sys.executable, "-m", "workers", *overrides, f"hydra.run.dir={folder}"]
    try:
        ended = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        ended = 130
    if ended:
        console.print(f"stopped: {' '.join(overrides)} ended with exit code {ended}; what it left is in {folder}")
        sys.exit(ended)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def ngrams() -> dict[str, float]:
    """Validation bits per character of counted models, add-0.1, on the same split."""
    text = load_text()
    names = {1: "unigram", 2: "bigram", 3: "trigram"}
    return {name: ngram_bits(text.train, text.valid, n, len(text.symbols)) for n, name in names.items()}


def show(results: dict[str, Any], out: Path) -> None:
    """The table, and what it rests on."""
    table = Table(title=f"4-stage character LSTM, 4 processes over gRPC, W = 8, {results['steps']} steps, seed 0")
    for heading in ("depth + time", "validation\nbits/char", "char/s\nat 0 ms", f"char/s\nat {DELAY_MS} ms"):
        table.add_column(heading, justify="left" if heading.startswith("depth") else "right")
    for heading in ("busy per stage\nat 0 ms", f"busy per stage\nat {DELAY_MS} ms", "staleness\n(steps)"):
        table.add_column(heading)
    for line in results["rows"]:
        table.add_row(
            line["method"], f"{line['valid_bits']:.3f}", f"{line['characters_per_s']:,.0f}",
            f"{line['characters_per_s_slow']:,.0f}", shares(line["busy"]), shares(line["busy_slow"]),
            " ".join("-" if s is None else f"{s:.1f}" for s in line["staleness"]),
        )  # fmt: skip
    for name, value in results["ngrams"].items():
        table.add_row(f"{name}, counted", f"{value:.3f}")
    console.print(table)
    at = results["environment"]
    digest = results["rows"][0]["sha256"][:16]
    console.print(
        f"Text: Python {at['python']}'s own manual, sha256 {digest}…; {at['machine']}; {results['wall_s']:.0f} s.\n"
        f"Pictures and report: {out}/report.html",
        soft_wrap=True,
    )


def shares(busy: list[float]) -> str:
    """Busy fractions of the stages, in percent."""
    return " ".join(f"{share:.0%}" for share in busy)


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the demonstration promises, each as a line of JSON."""
    locked, *synthetic = rows
    found = []
    for line in rows:
        found.append(
            bar(f"{line['method']}: validation bits/char", line["valid_bits"], 2.25, line["valid_bits"] <= 2.25)
        )
    for line in synthetic:
        ratio = line["valid_bits"] / locked["valid_bits"]
        found.append(bar(f"{line['method']}: bits over backprop's", ratio, 1.03, ratio <= 1.03))
        faster = line["characters_per_s_slow"] / locked["characters_per_s_slow"]
        found.append(bar(f"{line['method']}: rate over backprop's at {DELAY_MS} ms", faster, 4.0, faster >= 4))
    return found


if __name__ == "__main__":
    main()
