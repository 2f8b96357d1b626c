"""Stop a run that has diverged, keep its good checkpoints, and raise an error that names the last one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dni.errors import DivergedError
from workers.config.settings import Config
from workers.storage import checkpoint
from workers.tracking.early_stopping import Stop

Record = dict[str, Any]


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
