"""The process of one run of a sweep, which `workers.cli.sweep.server` forks, and those of its stages."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import configure_log
from omegaconf import OmegaConf

from workers.cli.ending import exit_codes
from workers.cli.one_run import begin_with_config, report, set_log_format
from workers.config.convert import from_any
from workers.config.quoting import as_text
from workers.config.schema import LaunchMode
from workers.config.settings import Config
from workers.launch import stage_main
from workers.launch.launcher import run
from workers.system.background import background
from workers.system.errors import name_refusals_of_threads
from workers.system.forked import fork_ahead


@dataclass(frozen=True)
class Task:
    """What the process of a run is told."""

    settings: dict[str, Any]  #: all settings, as `to_plain` returns them: classes of the user's own are not pickled
    run_dir: str
    console: str  #: file that takes all output of the process
    logging: dict[str, Any]  #: Hydra's job_logging, resolved
    verbose: bool | str | list[str] = False  #: hydra.verbose
    environment: dict[str, str] = field(default_factory=dict)  #: hydra.job.env_set
    torch_threads: int | None = None  #: per stage, if the settings name no number
    ahead: int = 0  #: stages to fork before the run begins (`stages_ahead`)


def run_task(task: Task) -> None:
    """Run a task in a process that was forked for it."""
    os.setsid()  # Ctrl-C reaches the sweep alone, which passes it on
    _write_to(task.console)
    if not task.environment:  # libraries read it when they are imported
        fork_ahead(stage_main.main, task.ahead)
    background("parent", _end_with_parent, lambda error: None).start()
    os.environ.update(task.environment)
    logging.raiseExceptions = False
    name_refusals_of_threads()
    with exit_codes():
        configure_log(OmegaConf.create(task.logging), OmegaConf.create({"v": task.verbose}).v)
        run_dir = Path(task.run_dir)
        with begin_with_config(from_any(as_text(task.settings)), run_dir, task.torch_threads) as accepted:
            set_log_format(accepted)
            report(run(accepted), run_dir)


def stages_ahead(config: Config, torch_threads: int | None) -> int:
    """Return how many stages of a run may be forked before it begins, that is, all or none.

    OpenMP reads when it is loaded how its idle threads wait. Stages that crowd the cores with several torch threads
    each therefore import torch themselves (see `workers.launch.supervisor`). `torch_threads` per stage apply if the
    settings name no number.
    """
    if config.threads or config.launch.mode is LaunchMode.external:
        return 0
    threads = config.launch.torch_threads or torch_threads or config.torch_threads
    return config.stages if threads == 1 or config.stages * threads <= (os.cpu_count() or 1) else 0


def _write_to(console: str) -> None:
    """Send all output of this process to a file. Its existence shows that signals reach this process alone."""
    with open(console, "ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _end_with_parent() -> None:
    """Save and end the run if the process of the sweep is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
