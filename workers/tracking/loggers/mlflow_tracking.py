"""MLflow: the figures of a run under the names they have in TensorBoard. Needs `pip install 'dni[mlflow]'`.

Its own environment variables apply: MLFLOW_TRACKING_URI names the server; without it MLflow writes below the current
folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from workers.tracking.display import Record
from workers.tracking.loggers.base import LoggedRun
from workers.tracking.sittings import KIND
from workers.tracking.tensorboard import scalars

#: Most parameters of one call, and characters of a value: older servers take no more.
MOST_AT_ONCE, LONGEST = 100, 500

#: The tag with the id that a run shares with the runs that resume it.
TAG = "dni.id"


class MlflowTracking:
    """Logs one run; every sitting of a resumed run is a run of its own, with the same tag `dni.id`."""

    def __init__(self, run: LoggedRun) -> None:
        import mlflow  # slow to import, and an extra

        self._of, self._mlflow, self._begun = run, mlflow, False

    def show(self, record: Record) -> None:
        """Log the numbers of a record; the record that begins a sitting begins the run."""
        if record.get("kind") == KIND:
            self._begin(record["id"])
        found = dict(scalars(record, self._of.last))
        if found and self._begun:
            self._mlflow.log_metrics(found, step=record["step"])

    def close(self) -> None:
        if self._begun:
            self._mlflow.end_run()

    def _begin(self, run_id: str) -> None:
        self._mlflow.set_experiment(self._of.project)
        self._mlflow.start_run(run_name=self._of.run_dir.name)
        self._begun = True
        self._mlflow.set_tag(TAG, run_id)
        for some in _in_parts(self._of.flat):
            self._mlflow.log_params(some)


def _in_parts(settings: dict[str, Any]) -> Iterator[dict[str, str]]:
    left = iter(settings.items())
    while some := dict(islice(left, MOST_AT_ONCE)):
        yield {key: str(value)[:LONGEST] for key, value in some.items()}
