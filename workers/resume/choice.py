"""Choose a checkpoint of a run to evaluate, sample or start from: the best by validation, the last, or a given step."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from dni.errors import ConfigError, DamagedCheckpoint
from workers.storage import checkpoint
from workers.tracking.early_stopping import best
from workers.tracking.run import METRICS, read_metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A checkpoint's step, and how it was chosen: "best", "last" or "chosen"."""

    step: int
    which: str


def choose(run_dir: Path, given: str | None, option: str) -> Choice:
    """Choose the checkpoint of a step, the "best" or the "last"; None: the best if it is known and saved, else the
    last.

    All files of the chosen checkpoint are verified. With None, a damaged best checkpoint is named in a warning and the
    last one is taken. `option` is the option that takes a step, for messages: "--step " or "start_step=". Raises
    ConfigError if the checkpoint does not exist, CheckpointError if it cannot be read.
    """
    if not checkpoint.complete_steps(run_dir) and checkpoint.newest_whole(run_dir) is None:
        raise ConfigError(f"{run_dir}: no complete checkpoint here (checkpoint.every sets how often one is written)")
    if given is None:
        return _best_if_whole(run_dir) or _last(run_dir)
    if given == "last":
        return _last(run_dir)
    if given == "best":
        return _best(run_dir, option)
    if not given.isdecimal():
        raise ConfigError(f"{option}{given}: give a number of steps, best or last")
    if not checkpoint.verify(run_dir, int(given)):
        complete = checkpoint.complete_steps(run_dir)
        raise ConfigError(f"{run_dir}: no complete checkpoint of step {given}; complete steps: {complete}")
    return Choice(int(given), "chosen")


def best_step(run_dir: Path) -> int | None:
    """Return the step of the run's best validation pass, or None."""
    records = read_metrics(run_dir / METRICS) if (run_dir / METRICS).is_file() else []
    chosen = best([record for record in records if record["kind"] == "valid"])
    return None if chosen is None else int(chosen["step"])


def _last(run_dir: Path) -> Choice:
    step = checkpoint.newest_whole(run_dir)
    assert step is not None, "there is a complete one; if all are damaged, newest_whole has raised"
    return Choice(step, "last")


def _best(run_dir: Path, option: str) -> Choice:
    step = best_step(run_dir)
    if step is not None and checkpoint.verify(run_dir, step):
        return Choice(step, "best")
    why = "the run was never validated" if step is None else f"step {step} was not kept (with patience it is)"
    raise ConfigError(f"{run_dir}: no checkpoint of the best validation pass: {why}; use {option}last")


def _best_if_whole(run_dir: Path) -> Choice | None:
    step = best_step(run_dir)
    try:
        return Choice(step, "best") if step is not None and checkpoint.verify(run_dir, step) else None
    except DamagedCheckpoint as error:
        log.warning("%s; this is the best checkpoint; taking the last one instead", error)
        return None
