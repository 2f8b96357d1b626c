"""The state of a run, from its folder alone: while it trains, after it has ended, and after it has died."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni.errors import ConfigError
from workers.config.quoting import resume_command
from workers.storage.checkpoint import complete_steps
from workers.storage.lock import is_locked
from workers.storage.record import CONFIG
from workers.tracking.run import METRICS, SUMMARY, Run, read_run
from workers.tracking.sittings import KIND

#: Smallest share of the time that counts as waiting for a stage.
WAITING = 0.1

Record = Mapping[str, Any]


@dataclass(frozen=True)
class StageState:
    """The newest figures of one stage; None: not known, or the stage has none."""

    index: int
    step: int
    behind: int  #: steps behind the stage that is furthest
    steps_per_s: float | None
    staleness: float | None  #: by how many steps the targets that it used were late
    loss: float | None
    busy: float | None  #: share of the run's time that it was not blocked
    waits: dict[int, float]  #: neighbour: share of the newest interval between two records spent waiting for it
    age_s: float | None  #: seconds since its newest record

    @property
    def waits_for(self) -> int | None:
        """The neighbour that it waits for most; None if it hardly waits."""
        longest = max(self.waits, key=lambda stage: self.waits[stage], default=None)
        return longest if longest is not None and self.waits[longest] >= WAITING else None


@dataclass(frozen=True)
class RunState:
    """The state of a run and of its stages."""

    path: Path
    state: str  #: "running", "ended" or "died"
    ended: str | None  #: why it ended: "steps", "max_timesteps", "patience", "interrupted" or "diverged"
    steps: int | None  #: planned; None: not known
    age_s: float | None  #: seconds since the newest record; None without one
    interval_s: float | None  #: seconds between two records of a stage at its newest rate
    stages: list[StageState]
    checkpoint: int | None  #: step of the newest complete checkpoint
    resume: str | None  #: the command that continues it; None while it runs, or if it is done

    @property
    def step(self) -> int:
        """The step of the slowest stage."""
        return min((stage.step for stage in self.stages), default=0)

    @property
    def left_s(self) -> float | None:
        """Seconds to the last step at the rate of the slowest stage; None if not known or not running."""
        slowest = min(self.stages, key=lambda stage: stage.step, default=None)
        if self.state != "running" or self.steps is None or slowest is None or not slowest.steps_per_s:
            return None
        return max(0, self.steps - slowest.step) / slowest.steps_per_s


def state_of(folder: Path) -> RunState:
    """Read the state of a run. Raises ConfigError for a folder without a run, and for damaged files."""
    if not any((folder / name).is_file() for name in (CONFIG, METRICS, SUMMARY)):
        raise ConfigError(f"{folder}: no run here ({CONFIG}, {METRICS}); give the folder of one run of dni-train")
    locked = is_locked(folder)  # first: a run that ends meanwhile has its summary by then
    run = read_run(folder)
    sittings = [place for place, record in enumerate(run.metrics) if record.get("kind") == KIND]
    current = run.metrics[sittings[-1] :] if sittings else run.metrics
    summary = None if locked or _resumed_since(run.summary, len(sittings)) else run.summary
    age_s = _age_s(folder / METRICS) if run.metrics else None
    saved = complete_steps(folder)
    ended = None if summary is None else _why(summary)
    unfinished = not locked and (summary is None or ended == "interrupted")
    return RunState(
        path=folder,
        state="running" if locked else "died" if summary is None else "ended",
        ended=ended,
        steps=_planned(run),
        age_s=age_s,
        interval_s=_interval_s(run, current),
        stages=_stages(run, current, summary, age_s),
        checkpoint=saved[-1] if saved else None,
        resume=resume_command(folder) if unfinished and saved else None,
    )


def holding_up(stages: Sequence[StageState]) -> dict[int, list[int]]:
    """Return the stages that others wait for, directly or through stages between, with those others.

    A stage that waits for one that waits for it in turn is in no list: neither holds up the other.
    """
    found: dict[int, list[int]] = {}
    by_index = {stage.index: stage for stage in stages}
    for stage in stages:
        seen, at = {stage.index}, stage
        while (following := at.waits_for) is not None and following not in seen and following in by_index:
            seen.add(following)
            at = by_index[following]
        if at.waits_for is None and at is not stage:
            found.setdefault(at.index, []).append(stage.index)
    return found


def _resumed_since(summary: Record | None, sittings: int) -> bool:
    """Whether the summary is of an earlier sitting: its run was resumed in this folder."""
    return summary is not None and sittings > summary.get("sittings", sittings)


def _why(summary: Record) -> str:
    found = summary.get("ended") or ("interrupted" if summary.get("interrupted") else "steps")
    return str(found)


def _age_s(path: Path) -> float:
    return max(0.0, time.time() - path.stat().st_mtime)


def _planned(run: Run) -> int | None:
    steps = run.config.get("steps")
    return steps if isinstance(steps, int) else None


def _interval_s(run: Run, current: Sequence[Record]) -> float | None:
    rates = [record.get("steps_per_s") for record in _newest(current).values()]
    every, slowest = run.config.get("log_every"), min((rate for rate in rates if rate), default=None)
    return every / slowest if isinstance(every, int) and slowest else None


def _newest(records: Sequence[Record]) -> dict[int, Record]:
    """Return the newest training record of every stage."""
    return {record["stage"]: record for record in records if record.get("kind") == "train"}


def _stages(run: Run, current: Sequence[Record], summary: Record | None, age_s: float | None) -> list[StageState]:
    newest, start = _newest(current), (current[0] if current and current[0].get("kind") == KIND else {})
    known = start.get("stages") or run.config.get("stages") or max(newest, default=-1) + 1
    final = int((summary or {}).get("steps") or 0)
    steps = {k: max(int(newest.get(k, start).get("step", 0)), final) for k in range(known)}
    last_s = max((float(record.get("wall_s") or 0.0) for record in current), default=0.0)
    ends = {each["index"]: each for each in (summary or {}).get("stage", [])}
    return [
        _stage(k, steps[k], max(steps.values()) - steps[k], newest.get(k), ends.get(k, {}), last_s, age_s)
        for k in range(known)
    ]


def _stage(
    index: int, step: int, behind: int, record: Record | None, end: Record, last_s: float, age_s: float | None
) -> StageState:
    """`last_s`: `wall_s` of the newest record of all stages, whose clocks start together but for the first frames."""
    shown = record or {}
    waits = {index + at: shown[key] for key, at in (("waited_previous", -1), ("waited_next", 1)) if shown.get(key)}
    return StageState(
        index=index,
        step=step,
        behind=behind,
        steps_per_s=shown.get("steps_per_s", end.get("steps_per_s")),
        staleness=shown.get("staleness", end.get("staleness_mean")),
        loss=shown.get("loss"),
        busy=shown.get("busy", end.get("busy")),
        waits=waits,
        age_s=None if record is None or age_s is None else age_s + max(0.0, last_s - float(record["wall_s"] or 0.0)),
    )
