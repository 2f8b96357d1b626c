"""Disturb a run by a plan of faults, one after the other, and note what became of each."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.chaos.faults import Fault, inject
from benchmarks.chaos.training import EVERY, STAGES, Ended, Training

START_S = 300.0  # longest start of a run
HANG_S = 300.0  # a run whose last stage trains no newer step for this long after a fault hangs
MOST_ENDS = 20  # a run that ends this often is given up


@dataclass
class Wound:
    """What became of a fault. Times are seconds since the run was started."""

    fault: Fault
    step: int  #: the newest of the first stage
    start: float
    end: float = 0.0  #: of the fault itself
    back: float | None = None  #: when the last stage had trained a step that was begun after `end`
    survivors_restarted: int = 0  #: processes of other stages that were replaced
    ended: str | None = None  #: the last line of the command, if the whole run ended
    hung: bool = False

    def as_row(self) -> dict[str, Any]:
        """Return the entry of the record."""
        entries = {**asdict(self.fault), **asdict(self)}
        return {key: entry for key, entry in entries.items() if key not in ("fault", "quiet")}


def disturb(run: Training, faults: Sequence[Fault], draw: random.Random, start: float, last_step: int) -> list[Wound]:
    """Inject the faults until `last_step` of the first stage; a run that ends is started again from its checkpoint.

    `start`: when the run was started. The list ends with a wound that has `hung` if the run hangs.
    """
    wounds: list[Wound] = []
    if run.until_step(EVERY, START_S) is None:
        sys.exit(f"the run has no checkpoint within {START_S:g} s: see {run.folder}/command.log")
    for fault in faults:
        if not _quiet(run, fault.quiet, last_step):
            break
        wound = Wound(fault, run.step(0), time.monotonic() - start)
        wounds.append(wound)
        before = {stage: process.pid for stage, process in run.stages().items()}
        try:
            _follow(run, wound, draw, start)
        except Ended as ended:
            if run.process.poll() == 0:  # it came to its end, and waited there for a stage that had been lost
                break
            wound.ended = str(ended)
            _again(run, wounds)
            continue
        after = {stage: process.pid for stage, process in run.stages().items()}
        spared = set(range(STAGES)) - ({fault.stage} if fault.kills else set())
        wound.survivors_restarted = sum(before.get(stage) != after.get(stage) for stage in spared)
        print(_line(wound), flush=True)
        if wound.hung:
            break
    return wounds


def _quiet(run: Training, steps: int, last_step: int) -> bool:
    """Wait for undisturbed steps of the first stage; return whether the run is still before its last step."""
    try:
        trained = run.until_step(run.step(0) + steps, HANG_S, stage=0) is not None
    except Ended:
        if run.process.poll() == 0:
            return False
        raise
    return trained and run.step(0) < last_step


def _follow(run: Training, wound: Wound, draw: random.Random, start: float) -> None:
    """Inject the fault and wait until the run has recovered."""
    rejoined = len(run.of_kind("rejoined"))
    over = inject(run, wound.fault, draw)
    wound.end = over - start
    deadline = over + HANG_S
    while wound.fault.kills and len(run.of_kind("rejoined")) == rejoined and time.monotonic() < deadline:
        run.wait(0.02)
    back = run.until_step(run.newest() + 1, deadline - time.monotonic())  # the first stage may have sent one more
    wound.back, wound.hung = None if back is None else back - start, back is None


def _again(run: Training, wounds: list[Wound]) -> None:
    print(_line(wounds[-1]), flush=True)
    if sum(wound.ended is not None for wound in wounds) > MOST_ENDS:
        sys.exit(f"the run ended {MOST_ENDS} times: see {run.folder}/command.log")
    newest = run.newest()
    run.orphaned += run.orphans()
    run.start()
    run.until_step(newest, START_S)


def _line(wound: Wound) -> str:
    fault = wound.fault
    became = "HANGS" if wound.hung else f"back {wound.back - wound.end:.1f} s after it" if wound.back else "run ended"
    seconds = f" {fault.seconds:.1f} s" if fault.seconds else ""
    return f"step {wound.step}, stage {fault.stage}, {fault.kind}{seconds}: {became} {wound.ended or ''}"
