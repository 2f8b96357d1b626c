"""What a disturbed run has kept: its steps, its updates, its rate; from its records, its logs and the faults."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.chaos.disturb import Wound
from benchmarks.chaos.training import IN_FLIGHT, STAGES, Training
from workers.tracking.run import METRICS, read_metrics

USUAL_S = 2.5  # before a kill: the time of the usual rate

Steps = dict[int, list[int]]  #: the steps that each stage has trained, in the order of the records


def trained(records: Sequence[dict[str, Any]]) -> Steps:
    """Return the steps of the training records, by stage."""
    return {k: [r["step"] for r in records if r["kind"] == "train" and r["stage"] == k] for k in range(STAGES)}


def twice(steps: Steps) -> int:
    """Return how many steps a stage has trained twice."""
    return sum(len(each) - len(set(each)) for each in steps.values())


def left_out(steps: Steps, gaps: Sequence[tuple[int, int, int]]) -> int:
    """Return how many steps a stage has not trained although it, and all stages before it, were there.

    `gaps`: (stage, the last step before its loss, the first step after it). Frames that were in flight are lost too.
    """
    last, missing = max((step for each in steps.values() for step in each), default=0), 0
    for stage, each in steps.items():
        excused = {
            step
            for lost, before, first in gaps
            if lost <= stage
            for step in range(before + 1 - IN_FLIGHT * (stage >= lost), first)
        }
        missing += len(set(range(1, last + 1)) - set(each) - excused)
    return missing


def kills(run: Training, wounds: Sequence[Wound], start: float) -> list[dict[str, Any]]:
    """Return for every killed stage that came back: what it cost. `start`: of the times of the wounds."""
    found = []
    for wound, after in zip_longest(wounds, wounds[1:]):
        stage, lost_at, until = wound.fault.stage, start + wound.end, start + after.start if after else math.inf
        back = (r for r in run.of_kind("rejoined") if r["stage"] == stage and lost_at < r["at"] <= until)
        record = next(back, None) if wound.fault.kills else None
        if record is None:
            continue
        first, there_at = record["step"], record["at"]
        began = first + (first not in (step for _, step in run.seen[stage]))  # it may be back at the last checkpoint
        mine = [step for at, step in run.seen[stage] if at < there_at and step < first]
        missed = missed_steps((run.folder / "logs" / f"stage-{stage}.log"), first)
        found.append(
            {
                "stage": stage, "kind": wound.fault.kind, "before": max(mine, default=0), "first": began,
                "noticed_s": record["noticed_s"], "away_s": record["away_s"],
                "lost_updates": sum(step > began - 1 - missed for step in mine),
                "rates": [rate_over_usual(run, k, lost_at, there_at) for k in range(stage)],
            }
        )  # fmt: skip
    return found


def missed_steps(log: Path, first: int) -> int:
    """Return how many steps before `first`, its first one, a stage had neither seen nor loaded, as its log says."""
    lines = re.findall(rf"step {first}: (\d+) steps before it did not come", log.read_text(errors="replace"))
    return int(lines[-1]) if lines else 0


def rate_over_usual(run: Training, stage: int, lost_at: float, back_at: float) -> float:
    """Return the rate of a stage between two times, over its rate just before."""
    usual = run.steps_between(stage, lost_at - USUAL_S, lost_at) / USUAL_S
    return run.steps_between(stage, lost_at, back_at) / (back_at - lost_at) / usual if usual else 0.0


def summary(run: Training, wounds: Sequence[Wound], start: float, ended: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a run in the record; `ended` is its `summary.json`."""
    costs, steps = kills(run, wounds, start), trained(read_metrics(run.folder / METRICS))
    gaps = [(cost["stage"], cost["before"], cost["first"]) for cost in costs]
    return {
        "steps": ended["steps"], "bits": ended["valid"]["bits_per_label"], "wall_s": ended["wall_s"],
        "trained": [len(set(each)) for each in steps.values()], "twice": twice(steps),
        "left_out": left_out(steps, gaps), "orphans": run.orphaned, "kills": costs,
        "faults": [wound.as_row() for wound in wounds],
    }  # fmt: skip
