"""Check a command's settings, data and folder before anything is written. A refused command leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dni.data.base import Data
from dni.errors import ConfigError
from workers.build.data import resolve
from workers.build.device import device_of, refuse_precision
from workers.build.heads.refusals import refuse_heads
from workers.build.interfaces import depth_contexts, refuse_large
from workers.build.metrics import try_metrics
from workers.build.model import build_chains
from workers.build.optimizer import try_optimizers
from workers.build.own_code import as_config_error
from workers.build.shapes import forget_specs, refuse_misfit, refuse_named_tensors
from workers.comm.transports.secret import secret_of_run
from workers.config.schema import LaunchConfig
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.config.validation.pipelines import check_devices
from workers.launch.cluster_environment import RankInfo
from workers.planning.split import settle_split
from workers.resume.resume import settle_resume
from workers.resume.start import settle_start
from workers.storage.lock import locked
from workers.storage.record import CONFIG
from workers.system.errors import refusals_at_the_door
from workers.tracking.loggers.build import refuse_missing_loggers
from workers.tracking.prometheus import refuse_missing
from workers.tracking.run import METRICS, SUMMARY

#: Files that show that a folder already holds a run.
TRACES = (CONFIG, METRICS, SUMMARY, "checkpoints")


@dataclass(frozen=True)
class Accepted:
    """A run, or one stage of it, that passed all checks and whose folder is locked."""

    config: Config
    data: Data
    run_dir: Path
    rank_info: RankInfo | None
    given: LaunchConfig  #: the launch settings as given, before an outer engine's rank was applied

    @property
    def recorded(self) -> Config:
        """The settings to record, with the original launch settings: a run may be resumed with another launch mode."""
        return replace(self.config, launch=self.given)


@contextmanager
def accept(
    config: Config, run_dir: Path, rank_info: RankInfo | None = None, given: LaunchConfig | None = None
) -> Iterator[Accepted]:
    """Check everything, then create the run's folder and hold its lock until the end of the block.

    Args:
        config: the settings of the run
        run_dir: the run's folder
        rank_info: this stage's rank, if an outer engine started all stages; only rank 0 creates and locks the folder
        given: the launch settings as given; default `config.launch`

    Raises ConfigError, ResumeError or DataError before anything is written.
    """
    with ExitStack() as held:
        with refusals_at_the_door():
            accepted = _accepted(config, run_dir, rank_info, given or config.launch, held)
        yield accepted


def _accepted(
    config: Config, run_dir: Path, rank_info: RankInfo | None, given: LaunchConfig, held: ExitStack
) -> Accepted:
    config, data = settle(config, rank_info)
    accepted = Accepted(config, data, run_dir, rank_info, given)
    if rank_info is not None and rank_info.rank:
        return accepted
    resumed = None if config.resume is None else Path(config.resume)
    refuse_taken(run_dir, resumed)
    run_dir.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(run_dir, resumed))
    refuse_taken(run_dir, resumed)  # another process may have started a run here since the first check
    return accepted


def settle(config: Config, rank_info: RankInfo | None, *, measures: bool = True) -> tuple[Config, Data]:
    """Check the settings and fill in what they leave open. Raises ConfigError.

    `measures`: cut by measured times where the settings say so; else by parameters, for a check that is to be quick.
    """
    check(config)
    refuse_missing(config.tracking.prometheus_port)
    refuse_missing_loggers(config.tracking.loggers)
    decay_steps = config.optimizer.schedule.decay_steps
    config, data = resolve(config)
    config = settle_resume(config, decay_steps)
    config = settle_start(settle_split(config) if measures else config)
    refuse_early(config, rank_info)
    return config, data


def refuse_taken(run_dir: Path, resumed: Path | None = None) -> None:
    """Raise ConfigError if the folder already holds a run, unless that is the run to resume."""
    own = resumed is not None and resumed.resolve() == run_dir.resolve()
    if not own and any((run_dir / name).exists() for name in TRACES):
        raise ConfigError(f"{run_dir} already holds a run: name another hydra.run.dir, or resume it (resume=)")


def refuse_early(config: Config, rank_info: RankInfo | None = None) -> None:
    """Build the parts of all stages once, to refuse bad split points, sizes or devices before anything starts."""
    secret_of_run(starts_all=False)  # refuses a short one
    devices = devices_here(config, rank_info)
    refuse_precision(config, devices)  # before the model is run
    forget_specs()
    refuse_misfit(config)
    try_metrics(config)
    refuse_named_tensors(config)
    chains = build_chains(config)
    with as_config_error(f"time={config.time.name} cannot train model={config.model.name}"):
        for chain in chains:
            config.time.check_module(chain)
    try_optimizers(config, chains)
    refuse_large(config)
    refuse_heads(config, lambda index: depth_contexts(config, index, torch.device("cpu")).values())
    check_devices(config, devices)
    config.transport.check_machine(devices, first=0 if rank_info is None else rank_info.rank)


def devices_here(config: Config, rank_info: RankInfo | None) -> list[str]:
    """Return the devices of all stages, or of this process's stage. Raises ConfigError if a device is missing."""
    stages = range(config.stages) if rank_info is None else [rank_info.rank]
    return [str(device_of(config, index)) for index in stages]
