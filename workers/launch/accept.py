"""What a command must pass before it writes anything: settings, data, folder. A refused one leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dni.data.base import Data
from dni.errors import ConfigError
from workers.build.data import resolve
from workers.build.device import device_of
from workers.build.input_model import refuse_large_inputs
from workers.build.interfaces import refuse_large
from workers.build.metrics import try_metrics
from workers.build.model import build_chains
from workers.build.optimizer import try_optimizers
from workers.build.shapes import refuse_misfit
from workers.config.schema import LaunchConfig
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.config.validation.pipelines import check_devices
from workers.launch.cluster_environment import RankInfo
from workers.resume.resume import settle_resume
from workers.resume.start import settle_start
from workers.storage.lock import locked
from workers.storage.record import CONFIG
from workers.system.errors import refusals_at_the_door
from workers.tracking.run import METRICS, SUMMARY

#: What tells that a run has been in a folder.
TRACES = (CONFIG, METRICS, SUMMARY, "checkpoints")


@dataclass(frozen=True)
class Accepted:
    """A run, or one stage of it, that may begin: all checks are passed and its folder is held."""

    config: Config
    data: Data
    run_dir: Path
    rank_info: RankInfo | None
    asked: LaunchConfig  #: how it was to be launched, before an engine's seat was taken

    @property
    def recorded(self) -> Config:
        """What goes into the record: a run may be resumed in another way than it was launched."""
        return replace(self.config, launch=self.asked)


@contextmanager
def accept(
    config: Config, run_dir: Path, rank_info: RankInfo | None = None, asked: LaunchConfig | None = None
) -> Iterator[Accepted]:
    """Check everything, then make the run's folder and hold its lock until the end of the block.

    `seat`: this stage's, where an engine has started all of them; the first stage alone makes and locks the folder.
    Raises ConfigError, ResumeError or DataError before anything is written.
    """
    with ExitStack() as held:
        with refusals_at_the_door():
            accepted = _accepted(config, run_dir, rank_info, asked or config.launch, held)
        yield accepted


def _accepted(
    config: Config, run_dir: Path, rank_info: RankInfo | None, asked: LaunchConfig, held: ExitStack
) -> Accepted:
    config, data = settle(config, rank_info)
    accepted = Accepted(config, data, run_dir, rank_info, asked)
    if rank_info is not None and rank_info.rank:
        return accepted
    resumed = None if config.resume is None else Path(config.resume)
    refuse_taken(run_dir, resumed)
    run_dir.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(run_dir, resumed))
    refuse_taken(run_dir, resumed)  # another start may have been faster
    return accepted


def settle(config: Config, rank_info: RankInfo | None) -> tuple[Config, Data]:
    """Check the settings and fill in what they leave open. Raises ConfigError."""
    check(config)
    decay_steps = config.optimizer.schedule.decay_steps
    config, data = resolve(config)
    config = settle_start(settle_resume(config, decay_steps))
    refuse_early(config, rank_info)
    return config, data


def refuse_taken(run_dir: Path, resumed: Path | None = None) -> None:
    """Raise ConfigError if a run has been in the folder, unless it is the one to go on with."""
    own = resumed is not None and resumed.resolve() == run_dir.resolve()
    if not own and any((run_dir / name).exists() for name in TRACES):
        raise ConfigError(f"{run_dir} already holds a run: name another hydra.run.dir, or go on with it (resume=)")


def refuse_early(config: Config, rank_info: RankInfo | None = None) -> None:
    """Build what the stages will build, so that a bad cut or device is refused before anything starts."""
    refuse_misfit(config)
    try_metrics(config)
    try_optimizers(config, build_chains(config))
    refuse_large(config)
    refuse_large_inputs(config)
    devices = devices_here(config, rank_info)
    check_devices(config, devices)
    config.transport.check_machine(devices, first=0 if rank_info is None else rank_info.rank)


def devices_here(config: Config, rank_info: RankInfo | None) -> list[str]:
    """The devices of the stages from the first on, or of the one that is here. Raises ConfigError if one is missing."""
    stages = range(config.stages) if rank_info is None else [rank_info.rank]
    return [str(device_of(config, index)) for index in stages]
