"""Read a run's trace."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def read_trace(run_dir: Path) -> list[Event]:
    """Return the events of a run's trace."""
    found: list[Event] = json.loads((run_dir / "trace.json").read_bytes())["traceEvents"]
    return found


def slices_of(events: list[Event], stage: int) -> list[Event]:
    """Return the slices of a stage, by time."""
    return sorted((e for e in events if e["ph"] == "X" and e["pid"] == stage + 1), key=lambda e: float(e["ts"]))


def pairs(events: list[Event], begin: str, end: str) -> list[tuple[Event, Event]]:
    """Return the events of two phases, paired by id. Each id must be there once in each phase."""
    first, second = ({e["id"]: e for e in events if e["ph"] == phase} for phase in (begin, end))
    assert first.keys() == second.keys()
    assert len([e for e in events if e["ph"] in (begin, end)]) == 2 * len(first)
    return [(first[number], second[number]) for number in first]


def assert_in_order(events: list[Event], stages: int) -> None:
    """Assert that no slices of a stage overlap, and that every frame's way leads from one stage to a later time of
    another."""
    for stage in range(stages):
        own = slices_of(events, stage)
        assert own
        assert all(e["dur"] >= 0 for e in own)
        assert all(a["ts"] + a["dur"] <= b["ts"] + 0.0015 for a, b in pairwise(own))  # written in nanoseconds
    flows = pairs(events, "s", "f")
    assert flows
    for start, end in flows:
        assert start["ts"] < end["ts"]
        assert start["pid"] != end["pid"]
    for start, end in pairs(events, "b", "e"):
        assert start["ts"] <= end["ts"]


def seconds(events: list[Event], stage: int, *names: str) -> float:
    """Return the sum of a stage's slices of these names, in seconds."""
    return sum(float(e["dur"]) for e in slices_of(events, stage) if e["name"] in names) / 1e6
