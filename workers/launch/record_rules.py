"""What the records of a run set off: old checkpoints are removed, and the run may end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dni.errors import DivergedError
from workers.config.settings import Config
from workers.resume.resume import best_saved
from workers.storage import checkpoint
from workers.tracking.early_stopping import Stop, stop_when_no_better, without_broken_off
from workers.tracking.monitor import Monitor

Record = dict[str, Any]


def sink(config: Config, run_dir: Path, monitor: Monitor, stop: Stop) -> Callable[[Record], None]:
    """Return the sink for the records of all stages: the monitor, and the rules that prune checkpoints or end the
    run."""
    pruned = prune_checkpoints(config, run_dir, monitor)
    watched = stop_when_diverged(without_broken_off(pruned), stop)
    patience = config.evaluate.patience
    if patience is None:
        return watched
    return stop_when_no_better(watched, monitor.valid_history, stop, patience, config.steps)


def prune_checkpoints(config: Config, run_dir: Path, monitor: Monitor) -> Callable[[Record], None]:
    """Return a sink that also removes old checkpoints once a newer one is complete; with patience it keeps the best
    one.

    It removes none while some stage's loss is absurd: the last good one may be needed.
    """
    marks: dict[int, list[bool]] = {}  # step: for each stage that has saved, whether its loss is absurd

    def note(record: Record) -> None:
        monitor(record)
        if record["kind"] != "checkpoint":
            return
        flags = marks.setdefault(record["step"], [])
        flags.append(record["absurd"])
        if len(flags) == config.stages and not any(marks.pop(record["step"], [True])):  # one of the threads that save
            spare = best_saved(run_dir, monitor.valid_history) if config.evaluate.patience is not None else None
            checkpoint.prune(run_dir, config.checkpoint.keep, spare, incomplete=config.replaces_stages)

    return note


def stop_when_diverged(sink: Callable[[Record], None], stop: Stop) -> Callable[[Record], None]:
    """Return a sink that sets `stop` at the first record that reports divergence, and keeps that record there."""

    def note(record: Record) -> None:
        sink(record)
        if record["kind"] == "diverged" and stop.diverged is None:
            stop.diverged = record
            stop.because("diverged")

    return note


def refuse_diverged(config: Config, run_dir: Path, stop: Stop) -> None:
    """Raise DivergedError if the run has diverged, after setting aside the checkpoints written since."""
    if stop.diverged is None:
        return
    good, stage = stop.diverged["good"], stop.diverged["stage"]
    checkpoint.set_aside(run_dir, after=good)
    found = last_good(config, run_dir, good)
    last = NONE_LEFT if found is None else f"the last good checkpoint is {found}"
    raise DivergedError(f"stage {stage}, step {stop.diverged['step']}: {stop.diverged['why']}; {last}")


def last_good(config: Config, run_dir: Path, good: int) -> Path | None:
    """Return the newest complete checkpoint up to step `good`, of this run or of the run that it resumed; None if
    none."""
    steps = [step for step in checkpoint.complete_steps(run_dir) if step <= good]
    if steps:
        return checkpoint.folder_of(run_dir, steps[-1])
    start = config.resume_step or 0
    return checkpoint.folder_of(Path(config.resume), start) if config.resume and start <= good else None


NONE_LEFT = "no complete checkpoint had been written before (checkpoint.every sets how often)"
