"""Start a run again from its newest checkpoint after a stage was lost."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from dni.errors import CheckpointError, WorkerLost
from workers.launch.accept import Accepted
from workers.storage import checkpoint
from workers.tracking.run import METRICS, read_metrics

log = logging.getLogger(__name__)


class Restarts:
    """Counts how often a run, or one of its stages alone, was started again.

    Args:
        most: how often in all they may be.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0
        self._lost_at: dict[int | None, int] = {}  # newest step when a stage was lost; None: of a run started whole
        self._refused: str | None = None  # why there is no further restart

    @property
    def left(self) -> int:
        """How often the run, or a stage, may still be started again."""
        return self.most - self.count

    def spend(self, step: int, stage: int | None = None) -> str | None:
        """Count one restart, of a stage alone or of the whole run (None), that was lost after `step`.

        Return why there is none, from then on: all are used up, or the last one was lost at the same step.
        """
        if self._refused is None and self._lost_at.get(stage) == step:
            self._refused = f"it was lost at step {step} before"
        elif self._refused is None and self.count == self.most:
            self._refused = f"launch.restarts={self.most} are used up"
        if self._refused is None:
            self.count, self._lost_at[stage] = self.count + 1, step
        return self._refused

    def after(self, accepted: Accepted, error: WorkerLost) -> Accepted:
        """Return the run as it goes on from its newest complete checkpoint, or from its beginning without one.

        Raises the error if no restart is left, if the run was lost at the same step before, or if no checkpoint can be
        read.
        """
        if not self.most:
            raise error
        refused = self.spend(newest_step(accepted.run_dir))
        if refused is not None:
            raise type(error)(f"{error}; not started again: {refused}") from error
        going_on = continued(accepted, error)
        start = going_on.config.resume_step or 0
        log.warning("%s; starting again after step %d (%d of %d times)", error, start, self.count, self.most)
        return going_on


def continued(accepted: Accepted, error: WorkerLost) -> Accepted:
    """Return a run that resumes itself from its newest checkpoint; without one it begins as before."""
    run_dir = accepted.run_dir
    try:
        step = checkpoint.newest_whole(run_dir)
    except CheckpointError as unreadable:
        raise type(error)(f"{error}; not started again: {unreadable}") from error
    if step is not None:
        return replace(accepted, config=replace(accepted.config, resume=str(run_dir.absolute()), resume_step=step))
    if accepted.config.resume is None:
        (run_dir / METRICS).unlink(missing_ok=True)
    return accepted


def newest_step(run_dir: Path) -> int:
    """Return the newest step in a run's records; 0 if there are none."""
    path = run_dir / METRICS
    return max((record["step"] for record in read_metrics(path)), default=0) if path.is_file() else 0
