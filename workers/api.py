"""`dni-train` from Python: `from workers import train`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError
from workers.cli.arguments import begin_with
from workers.cli.ending import explain
from workers.config.compose import compose_settings
from workers.config.schema import LaunchMode
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.tracking.run import METRICS, SUMMARY, read_metrics
from workers.tracking.sittings import last_stages

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainedRun:
    """A run folder and its results. `TrainedRun(Path(FOLDER))` reads one that `dni-train` has written."""

    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`. Raises FileNotFoundError if the run has not ended."""
        found: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        return found

    @property
    def interrupted(self) -> bool:
        """Whether the run was stopped before its end; `train(["resume=FOLDER"])` resumes it."""
        return bool(self.summary["interrupted"])

    @property
    def metrics(self) -> pd.DataFrame:
        """All records of the run, one per row: `kind` (sitting, train, valid, own, probe, rejoined), `stage`, `step`
        and figures.

        Losses are in nats per label, times in seconds.
        """
        import pandas as pd  # slow to import, and not needed to train

        records: pd.DataFrame = pd.DataFrame(read_metrics(self.folder / METRICS))
        return records

    def curve(self, kind: str = "train", stage: int | None = None) -> pd.DataFrame:
        """Return the records of one kind and stage (default: the last one) by step, without empty columns."""
        every = self.metrics
        asked = self._last_stages() if stage is None else stage
        chosen: pd.DataFrame = every[(every["kind"] == kind) & (every["stage"] == asked)].set_index("step")
        known: pd.DataFrame = chosen.dropna(axis="columns", how="all")
        return known

    def _last_stages(self) -> list[int]:
        """For each record, the last stage there was then: a run may have gone on in others."""
        records = read_metrics(self.folder / METRICS)
        newest = max((record["stage"] for record in records), default=0)
        return [newest if last is None else last for last in last_stages(records)]


def train(overrides: Sequence[str] = (), folder: str | Path | None = None) -> TrainedRun:
    """Run `dni-train OVERRIDES`, wait for its end, and return the run.

    It runs one run in threads or processes, as the settings say; use the command for sweeps and for an engine's job
    (`launch=external`). In the main thread Ctrl-C (a notebook's stop button) saves the run and ends it in good order,
    with `interrupted` set. Torch's random state and number of threads are restored afterwards.

    Args:
        overrides: settings as typed on the command line: `["experiment=smoke", "seed=1"]`
        folder: the run's folder; default: `outputs/DATE/TIME` below the current folder, as for the command

    Raises:
        ConfigError: the settings are refused, or the folder already holds a run; nothing was started
        DniError: the run failed after its start (`WorkerLost`, `DivergedError`, ...)
    """
    config = _settings(overrides)
    run_dir = Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S-%f") if folder is None else folder)
    with _torch_as_it_was():
        launch(config, run_dir)
    return TrainedRun(run_dir)


def _settings(overrides: Sequence[str]) -> Config:
    if isinstance(overrides, str):
        raise ConfigError(f"train takes a list of settings: write train([{overrides!r}])")
    for word in overrides:
        if word.startswith(("-", "hydra")):
            raise ConfigError(f"{word}: train takes settings, NAME=VALUE; the folder is its argument folder=")
    try:
        config_name, _ = begin_with(overrides)
        config = compose_settings(list(overrides), config_name)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    if config.launch.mode is LaunchMode.external:
        raise ConfigError(
            "launch=external is for processes that an engine has started: use the command dni-train there"
        )
    return config


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Restore the caller's random state and number of threads, which a run in threads changes."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
