"""A run that has diverged: it is stopped, its good checkpoints stay, and it ends with an error that names the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dni.errors import DivergedError
from workers import checkpoint
from workers.stopping import Stop

Record = dict[str, Any]


def stop_when_diverged(sink: Callable[[Record], None], stop: Stop) -> Callable[[Record], None]:
    """A sink that sets `stop` once a stage says that it has diverged; the first record that does is kept there."""

    def note(record: Record) -> None:
        sink(record)
        if record["kind"] == "diverged" and stop.diverged is None:
            stop.diverged = record
            stop.because("diverged")

    return note


def refuse_diverged(run_dir: Path, stop: Stop) -> None:
    """If the run has diverged, set its later checkpoints aside and raise DivergedError, which says all about it."""
    if stop.diverged is None:
        return
    good, stage = stop.diverged["good"], stop.diverged["stage"]
    checkpoint.set_aside(run_dir, after=good)
    left = checkpoint.complete_steps(run_dir)
    last = f"the last good checkpoint is {checkpoint.folder_of(run_dir, left[-1])}" if left else NONE_LEFT
    raise DivergedError(f"stage {stage}, step {stop.diverged['step']}: {stop.diverged['why']}; {last}")


NONE_LEFT = "no complete checkpoint had been written before (checkpoint.every sets how often)"
