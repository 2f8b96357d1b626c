"""The runs of a sweep: compose the settings of each, find its folder, and decide what is left to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError
from workers.cli.ending import explain
from workers.cli.sweep.index import Progress, before_end
from workers.cli.sweep.run_process import Task, stages_ahead
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.launch.accept import TRACES
from workers.storage import checkpoint
from workers.storage.lock import locked


@dataclass(frozen=True)
class Composed:
    """The settings of a run: typed, and Hydra's own."""

    config: Config
    hydra: DictConfig
    wanted: Path  #: the folder that Hydra names for it


@dataclass(frozen=True)
class Point:
    """A run of a sweep."""

    number: int
    words: tuple[str, ...]  #: the settings that differ between the runs, as typed
    composed: Composed | None  #: None if the settings are refused
    refusal: str = ""


def compose_point(
    context: HydraContext, whole: DictConfig, number: int, job: Sequence[str], words: tuple[str, ...]
) -> Point:
    """Compose and check the settings of a run; data and model are left to its process."""
    try:
        settings = context.config_loader.load_sweep_config(whole, list(job))
        with open_dict(settings):
            settings.hydra.job.id = settings.hydra.job.num = number
        HydraConfig.instance().set_config(settings)
        wanted = Path(str(settings.hydra.sweep.dir), str(settings.hydra.sweep.subdir)).absolute()
        plain = OmegaConf.to_container(settings)
        assert isinstance(plain, dict)
        plain.pop("hydra")
        config = from_any(plain)
        check(config)
    except (HydraException, OmegaConfBaseException, ConfigError) as error:
        return Point(number, words, None, explain(error))
    return Point(number, words, Composed(config, settings, wanted))


def task_of(composed: Composed, run_dir: Path, console: Path, progress: Progress, jobs: int) -> Task:
    """Return the task of a run that is started, resumed from its newest checkpoint, or started again.

    Raises ConfigError if another process writes into the folder.
    """
    config = composed.config
    if progress is Progress.saved:
        config = _resumed(config, run_dir)
    elif progress is Progress.started:
        _clear(run_dir)
    hydra = composed.hydra.hydra
    with read_write(hydra), open_dict(hydra):
        hydra.runtime.output_dir = str(run_dir).replace("${", "\\${")
    HydraConfig.instance().set_config(composed.hydra)
    torch_threads = None if jobs == 1 else max(1, (os.cpu_count() or 1) // (config.stages * jobs))
    return Task(
        settings=to_plain(config), run_dir=str(run_dir), console=str(console), logging=_plain(hydra.job_logging),
        verbose=hydra.verbose if isinstance(hydra.verbose, bool | str) else _plain(hydra.verbose),
        environment={str(key): str(value) for key, value in _plain(hydra.job.env_set).items()},
        torch_threads=torch_threads, ahead=stages_ahead(config, torch_threads),
    )  # fmt: skip


def _resumed(config: Config, run_dir: Path) -> Config:
    """Resume from the newest checkpoint; from an earlier one if the run was killed between its last one and its end."""
    steps = before_end(run_dir, config.planned_steps)
    newest = checkpoint.complete_steps(run_dir)[-1]
    return replace(config, resume=str(run_dir), resume_step=None if newest == steps[-1] else steps[-1])


def _clear(run_dir: Path) -> None:
    """Remove the traces of a run that has saved nothing."""
    with locked(run_dir):
        for path in (run_dir / name for name in (*TRACES, "tensorboard")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True)
