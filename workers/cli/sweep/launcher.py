"""Hydra's launcher and sweeper of `dni-train -m`: runs in processes of this machine. The sweep goes on when a run
fails, and starting it again resumes it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dni.errors import ConfigError
from workers.cli.sweep.flags import is_sweep
from workers.cli.sweep.index import Index, Progress, digest_of, progress_of
from workers.cli.sweep.outcome import Outcome, State, differing
from workers.cli.sweep.point import Composed, Point, compose_point, task_of
from workers.cli.sweep.pool import Job, run_jobs
from workers.cli.sweep.progress import SweepProgress, newest_step
from workers.cli.sweep.server import Server
from workers.storage.lock import locked

#: Hydra takes plugins of its own namespace alone. These are registered by hand, so that no other application of Hydra
#: in this environment finds them.
NAMESPACE = "hydra_plugins.dni_sweep"

_outcomes: list[Outcome] = []


class SweepInterrupted(KeyboardInterrupt):
    """Raised after a sweep that a signal has ended, so that a sweeper starts no more runs."""


class SweepLauncher(Launcher):
    """Runs `jobs` runs at a time, each in a process of its own."""

    __module__ = NAMESPACE

    def __init__(self, jobs: int = 1) -> None:
        if not isinstance(jobs, int) or jobs < 1:
            raise ConfigError(f"hydra.launcher.jobs={jobs} must be a number of runs at a time, 1 or more")
        self.jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the settings of the whole sweep."""
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a batch. Raises ConfigError, before anything is written, if all are refused."""
        setup_globals()
        server, before = Server(), HydraConfig.instance().cfg
        try:
            sweep_dir = Path(str(self.config.hydra.sweep.dir)).absolute()
            words = differing(job_overrides)
            points = [
                compose_point(self.context, self.config, initial_job_idx + n, job, words[n])
                for n, job in enumerate(job_overrides)
            ]
            refuse_all(points)
            sweep_dir.mkdir(parents=True, exist_ok=True)
            with locked(sweep_dir):
                OmegaConf.save(self.config, sweep_dir / "multirun.yaml")
                outcomes = run_points(server, sweep_dir, points, self.jobs)
        finally:
            HydraConfig.instance().cfg = before
        _outcomes.extend(outcomes)
        if any(outcome.state is State.waiting or outcome.state is State.interrupted for outcome in outcomes):
            print(f"dni-train: go on with the same command and hydra.sweep.dir={sweep_dir}", file=sys.stderr)
            raise SweepInterrupted
        return [_returned(job) for job in job_overrides]


class SweepSweeper(Sweeper):
    """Makes every combination, as Hydra's basic sweeper, but leaves settings that cannot be composed to the launcher,
    which goes on with the others."""

    __module__ = NAMESPACE

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size, self.params = max_batch_size, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self.loader = hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Launch every combination, in batches."""
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        overrides = OverridesParser.create(config_loader=self.loader).parse_overrides(words)
        returns, begun = [], 0
        for batch in BasicSweeper.split_arguments(overrides, self.max_batch_size):
            returns.append(self._launcher.launch(batch, initial_job_idx=begun))
            begun += len(batch)
        return returns


def choose_launcher(arguments: list[str]) -> tuple[list[str], bool]:
    """Return the arguments with this launcher and sweeper, unless they name others, and whether it is this one."""
    if not is_sweep(arguments):
        return arguments, False
    _join_namespace()
    store = ConfigStore.instance()
    for group, cls, fields in (
        ("launcher", SweepLauncher, {"jobs": 1}),
        ("sweeper", SweepSweeper, {"max_batch_size": None, "params": None}),
    ):
        Plugins.instance().register(cls)
        node = {"_target_": f"{NAMESPACE}.{cls.__name__}", **fields}
        store.store(group=f"hydra/{group}", name="dni", node=node, provider="dni")
    chosen = {group: any(word.startswith(f"hydra/{group}=") for word in arguments) for group in ("launcher", "sweeper")}
    ours = not chosen["launcher"] or "hydra/launcher=dni" in arguments
    added = [f"hydra/{group}=dni" for group, named in chosen.items() if ours and not named]
    return [*arguments, *added], ours


def _join_namespace() -> None:
    """Make the plugins importable from Hydra's namespace, which is there only where some plugin is installed."""
    try:
        space = importlib.import_module("hydra_plugins")
    except ImportError:
        space = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        space.__path__ = []
    space.__dict__[NAMESPACE.rpartition(".")[2]] = sys.modules[__name__]


@contextmanager
def sweep_outcomes() -> Iterator[list[Outcome]]:
    """Collect the outcomes of the sweep that runs in the block, in the order of its runs."""
    _outcomes.clear()
    found: list[Outcome] = []
    try:
        yield found
    except SweepInterrupted:
        pass
    finally:
        found += sorted(_outcomes, key=lambda outcome: outcome.number)


def refuse_all(points: Sequence[Point]) -> None:
    """Raise ConfigError if no point can run, after a line on stderr for each."""
    if any(point.composed is not None for point in points):
        return
    for point in points:
        sys.stderr.write(f"dni-train: run {point.number} ({' '.join(point.words)}): {point.refusal}\n")
    raise ConfigError(f"none of the {len(points)} runs of this sweep can run; nothing was started")


def run_points(server: Server, sweep_dir: Path, points: Sequence[Point], at_once: int) -> list[Outcome]:
    """Run the points that have not ended in an earlier start of the sweep, and return the outcomes of all."""
    index = Index.read(sweep_dir)
    outcomes: list[Outcome] = []
    jobs: list[Job] = []
    for point in points:
        if point.composed is None:
            folder = sweep_dir / str(point.number)
            outcomes.append(Outcome(point.number, point.words, folder, State.failed, point.refusal))
            continue
        found = _job_or_outcome(index, point, point.composed, at_once)
        (jobs.append if isinstance(found, Job) else outcomes.append)(found)  # type: ignore[arg-type]
    index.write()
    (sweep_dir / "logs").mkdir(exist_ok=True)
    progress = SweepProgress(Console(), len(jobs), sum(job.steps for job in jobs))
    try:
        return outcomes + run_jobs(server, jobs, at_once, progress)
    finally:
        progress.close()


def _job_or_outcome(index: Index, point: Point, composed: Composed, at_once: int) -> Job | Outcome:
    run_dir = index.folder(digest_of(composed.config), composed.wanted)
    planned = composed.config.planned_steps
    progress = progress_of(run_dir, planned)
    if progress is Progress.finished:
        return Outcome(point.number, point.words, run_dir, State.before)
    if progress is Progress.diverged:
        line = f"in an earlier start of this sweep; remove {run_dir} to run it again"
        return Outcome(point.number, point.words, run_dir, State.diverged, line)
    start = newest_step(run_dir) if progress is Progress.saved else 0
    console = index.sweep_dir / "logs" / f"{os.path.relpath(run_dir, index.sweep_dir)}.txt".replace(os.sep, "-")
    task = partial(task_of, composed, run_dir, console, progress, at_once)
    return Job(point.number, point.words, run_dir, max(1, planned - start), start, task)


def _returned(job: Sequence[str]) -> JobReturn:
    returned = JobReturn(overrides=job, status=JobStatus.COMPLETED)
    returned.return_value = None
    return returned
