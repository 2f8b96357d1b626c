"""A run that has diverged: it is stopped, its good checkpoints stay, and it ends with an error that names the last."""

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
    """A sink that sets `stop` once a stage says that it has diverged; the first record that does is kept there."""

    def note(record: Record) -> None:
        sink(record)
        if record["kind"] == "diverged" and stop.diverged is None:
            stop.diverged = record
            stop.because("diverged")

    return note


def refuse_diverged(config: Config, run_dir: Path, stop: Stop) -> None:
    """If the run has diverged, set its later checkpoints aside and raise DivergedError, which says all about it."""
    if stop.diverged is None:
        return
    good, stage = stop.diverged["good"], stop.diverged["stage"]
    checkpoint.set_aside(run_dir, after=good)
    found = last_good(config, run_dir, good)
    last = NONE_LEFT if found is None else f"the last good checkpoint is {found}"
    raise DivergedError(f"stage {stage}, step {stop.diverged['step']}: {stop.diverged['why']}; {last}")


def last_good(config: Config, run_dir: Path, good: int) -> Path | None:
    """The newest complete checkpoint of a step up to `good`: of this run, or the one that it went on from."""
    steps = [step for step in checkpoint.complete_steps(run_dir) if step <= good]
    if steps:
        return checkpoint.folder_of(run_dir, steps[-1])
    start = config.resume_step or 0
    return checkpoint.folder_of(Path(config.resume), start) if config.resume and start <= good else None


NONE_LEFT = "no complete checkpoint had been written before (checkpoint.every sets how often)"
