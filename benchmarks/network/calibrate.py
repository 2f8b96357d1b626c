"""Measure emulated links: round trips at several delays, and 64 KB messages at a steady rate in both directions.

Four hosts form a row (`benchmarks/network/hosts.py`). A message of 64 bytes travels there and back between two of them;
then each of the three links carries a 64 KB message sixty times a second in each direction. All hosts share one clock,
so one-way times are measured directly. QUICK=1 is short and writes to outputs/bench-links/.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import RESULTS, bar, environment, write
from benchmarks.network import link_load
from benchmarks.network.hosts import Hosts

QUICK = os.environ.get("QUICK") == "1"
DELAYS = (0, 20) if QUICK else (0, 5, 20, 50, 100)
LOADED = (0, 20) if QUICK else (0, 50)
ROUNDS = 20 if QUICK else 100
SECONDS = 1 if QUICK else 10
OUT = Path("outputs/bench-links") if QUICK else RESULTS
HOSTS, MESSAGE, RATE = 4, 65536, 60
MOST_MS = 1.0  #: largest median excess over the delay


def main() -> None:
    """Measure, print every figure and the bars, write the results."""
    others = round(os.getloadavg()[0], 1)
    with Hosts(HOSTS) as hosts:
        trips = [round_trips(hosts, delay_ms) for delay_ms in DELAYS]
        loads = [load(hosts, delay_ms) for delay_ms in LOADED]
    results = {
        "message_bytes": MESSAGE, "per_second": RATE, "seconds": SECONDS, "hosts": HOSTS, "load_before": others,
        "environment": environment(),
        "round_trips": trips, "loads": loads, "bars": bars(trips, loads),
    }  # fmt: skip
    write(OUT / "emulated_links.json", results)


def round_trips(hosts: Hosts, delay_ms: float) -> dict[str, float]:
    """Return round-trip times minus two delays, in ms."""
    hosts.set_delay(delay_ms)
    _, took = together(hosts, [["pong"], ["ping", str(ROUNDS)]])
    extra = sorted(1000 * t - 2 * delay_ms for t in took["took_s"])
    found = {"delay_ms": delay_ms, **spread(extra)}
    print(json.dumps(found), flush=True)
    return found


def load(hosts: Hosts, delay_ms: float) -> dict[str, float]:
    """Return times of all messages minus one delay, in ms, the share that arrived, and the links' share of a
    processor."""
    hosts.set_delay(delay_ms)
    began, used = time.monotonic(), hosts.line_cpu_s()
    reports = together(hosts, [["load", str(k), str(HOSTS), str(RATE * SECONDS), str(RATE)] for k in range(HOSTS)])
    share = (hosts.line_cpu_s() - used) / (time.monotonic() - began)
    extra = sorted(1000 * t - delay_ms for host in reports for t in host["took_s"])
    late = [host["behind_s"] for host in reports]
    found = {
        "delay_ms": delay_ms, **spread(extra), "came": len(extra) / (2 * (HOSTS - 1) * RATE * SECONDS),
        "behind_ms": round(1000 * max(late), 3), "line_cpu": round(share, 4),
    }  # fmt: skip
    print(json.dumps(found), flush=True)
    return found


def spread(ordered: list[float]) -> dict[str, float]:
    """Return minimum, median, 99th percentile and maximum."""
    nth = ordered[math.ceil(0.99 * len(ordered)) - 1]
    found = {"min": ordered[0], "median": statistics.median(ordered), "p99": nth, "max": ordered[-1]}
    return {name: round(value, 3) for name, value in found.items()}


def together(hosts: Hosts, parts: list[list[str]]) -> list[dict[str, Any]]:
    """Run `link_load.py` on the first hosts with these arguments; return its output from each."""
    with ExitStack() as stack:
        started = []
        for k, part in enumerate(parts):
            command = hosts.command(k, [sys.executable, link_load.__file__, *part])
            started.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)))
        return [json.loads(process.communicate()[0]) for process in started]


#: The table's columns; times in ms.
HEADS = ["one way", "what crosses", "beyond it: least", "median", "99 %", "most", "the links' share of a processor"]


def lines(results: dict[str, Any]) -> list[list[str]]:
    """Return the table's rows."""
    small = [("64 bytes, there and back", row) for row in results["round_trips"]]
    large = [("6 streams of 64 KB, 60 a second", row) for row in results["loads"]]
    return [
        [
            f"{row['delay_ms']} ms", what, *(f"{row[name]:.2f}" for name in ("min", "median", "p99", "max")),
            f"{row['line_cpu']:.1%}" if "line_cpu" in row else "",
        ]
        for what, row in (*small, *large)
    ]  # fmt: skip


def bars(trips: list[dict[str, float]], loads: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return the bars: links have the set delay and carry the offered load."""
    worst = max(trip["median"] for trip in trips)
    found = [bar("round trip beyond two delays, median, worst of the delays (ms)", worst, MOST_MS, worst < MOST_MS)]
    for one in loads:
        name = f"6 streams of 64 KB, 60 a second, at {one['delay_ms']} ms"
        found.append(bar(f"{name}: share that came", one["came"], 1.0, one["came"] == 1.0))
        found.append(bar(f"{name}: beyond one delay, median (ms)", one["median"], None, None))
        found.append(bar(f"{name}: the links' share of a processor", one["line_cpu"], None, None))
    return found


if __name__ == "__main__":
    main()
