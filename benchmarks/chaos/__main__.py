"""Train four stages under faults, and report what they cost: `make chaos`.

Three runs are disturbed by killed and paused processes, connections that are cut, stalled and changed, damaged
checkpoints and strangers; three runs are not. All are the shipped command, in processes over gRPC; each link leads
through a proxy. A plan of faults is a function of SEED (default 0). MINUTES (default 15) is about how long all runs
take; fewer minutes have fewer faults. QUICK=1 takes one run of each with ten faults. The exit code is 1 if a
run hangs or leaves a process behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.chaos.disturb import disturb
from benchmarks.chaos.faults import plan
from benchmarks.chaos.judge import summary
from benchmarks.chaos.pages import bars_of, timeline
from benchmarks.chaos.training import LINKS, SETTINGS, Training
from benchmarks.harness.environment import RESULTS, environment, write
from benchmarks.harness.grid import QUICK

MINUTES = float(os.environ.get("MINUTES", "0.8" if QUICK else "15"))
SEED = int(os.environ.get("SEED", "0"))
RUNS = 1 if QUICK else 3
STEPS = round((500 if QUICK else 270) * MINUTES)  # of each run; about 20 a second
ENDS = (f"steps={STEPS}", f"evaluate.every={STEPS}")
SHARE = 0.15 if QUICK else MINUTES / 15  # of a full plan of faults
END_S = 600.0  # a run that has not ended this long after the last fault hangs

OUT = Path("outputs/bench-chaos") / ("quick" if QUICK else "full")
RECORD = (OUT if QUICK else RESULTS) / "chaos.json"
PICTURE = (OUT if QUICK else Path(__file__).parents[2] / "docs") / "reliability.png"


def main() -> int:
    """Run everything, write the record and the picture; return 1 if a run hung or left a process behind."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    began, load = time.monotonic(), os.getloadavg()[0]
    print(f"MINUTES={MINUTES:g} SEED={SEED}: {RUNS} disturbed and {RUNS} undisturbed runs of {STEPS} steps")
    rows: dict[str, dict[str, Any]] = {}
    for number in range(RUNS):
        rows[f"disturbed, seed {number}"] = disturbed(number)
    rows |= undisturbed()
    bars = bars_of(rows)
    head = {"seed": SEED, "minutes": MINUTES, "load": round(load, 1), "took_s": round(time.monotonic() - began)}
    settings = [*SETTINGS, *LINKS]
    write(RECORD, {**head, "settings": settings, "environment": environment(), "rows": rows, "bars": bars})
    return int(any(row["orphans"] or row.get("hangs") for row in rows.values()))


def disturbed(number: int) -> dict[str, Any]:
    """Return the entry of one disturbed run; draw the first one's timeline."""
    draw, start = random.Random(f"{SEED}, {number}"), time.monotonic()
    run = Training(OUT / f"disturbed-{number}", *ENDS, f"seed={number}")
    try:
        wounds = disturb(run, plan(draw, SHARE), draw, start, round(0.85 * STEPS))
        ended = None if wounds and wounds[-1].hung else finish(run)
        if ended is None:
            return {"hangs": 1, "orphans": run.orphaned, "faults": [wound.as_row() for wound in wounds]}
        row = {"hangs": 0, **summary(run, wounds, start, ended)}
        if number == 0:
            timeline(run, wounds, start, PICTURE)
    finally:
        run.close()
    print(f"disturbed, seed {number}: {len(wounds)} faults, {row['bits']} bits per character")
    return row


def undisturbed() -> dict[str, dict[str, Any]]:
    """Return the entries of the undisturbed runs, which run at once: nobody measures their time."""
    runs = {n: Training(OUT / f"undisturbed-{n}", *ENDS, f"seed={n}") for n in range(RUNS)}
    rows = {}
    try:
        for number, run in runs.items():
            ended = finish(run)
            if ended is None:
                sys.exit(f"{run.folder}: an undisturbed run did not end within {END_S:g} s")
            rows[f"undisturbed, seed {number}"] = {
                "steps": ended["steps"], "bits": ended["valid"]["bits_per_label"], "wall_s": ended["wall_s"],
                "orphans": run.orphaned,
            }  # fmt: skip
    finally:
        for run in runs.values():
            run.close()
    return rows


def finish(run: Training) -> dict[str, Any] | None:
    """Wait for the end of a run; return its summary, or None if it hangs. Exits if it ended with an error."""
    deadline = time.monotonic() + END_S
    while run.process.poll() is None:
        run.stages()
        if time.monotonic() > deadline:
            return None
        with suppress(subprocess.TimeoutExpired):
            run.process.wait(1.0)
    if run.process.returncode:
        sys.exit(f"{run.folder}: exit code {run.process.returncode}: {run.last_line()}")
    run.orphaned += run.orphans()
    found: dict[str, Any] = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that runs are ended
    sys.exit(main())
