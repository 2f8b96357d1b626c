"""Weights & Biases: the figures of a run under the names they have in TensorBoard. Needs `pip install 'dni[wandb]'`.

Its own environment variables apply: WANDB_API_KEY, WANDB_MODE=offline and others.
"""

from __future__ import annotations

from typing import Any

from workers.tracking.display import Record
from workers.tracking.loggers.base import LoggedRun
from workers.tracking.sittings import KIND
from workers.tracking.tensorboard import scalars

#: The axis of all curves. W&B's own step counts calls, and stages report at different times.
STEP = "step"


class WeightsAndBiases:
    """Logs one run. A resumed run goes on in the same run of the service, which has its id."""

    def __init__(self, run: LoggedRun) -> None:
        self._of, self._run = run, None

    def show(self, record: Record) -> None:
        """Log the numbers of a record; the record that begins a sitting begins the run."""
        if record.get("kind") == KIND:
            self._run = self._begun(record["id"])
        found = dict(scalars(record, self._of.last))
        if found and self._run is not None:
            self._run.log({**found, STEP: record["step"]})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _begun(self, run_id: str) -> Any:
        import wandb  # slow to import, and an extra

        name, folder = self._of.run_dir.name, str(self._of.run_dir)
        run: Any = wandb.init(
            project=self._of.project, id=run_id, resume="allow", name=name, dir=folder, config=dict(self._of.settings)
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        return run
