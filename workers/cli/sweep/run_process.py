"""The process of one run of a sweep.

Processes are forked from a server that has imported this module, and with it torch, and has done nothing else: it has
no links, no CUDA context and no threads, except those of OpenBLAS, which it stops before each fork. Each run has a
process of its own and need not import torch again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.utils import configure_log
from omegaconf import OmegaConf

from workers.cli.ending import exit_codes
from workers.cli.one_run import begin_with_config, report, set_log_format
from workers.config.convert import from_any
from workers.config.quoting import as_text
from workers.launch.launcher import run
from workers.system.background import background
from workers.system.errors import name_refusals_of_threads


@dataclass(frozen=True)
class Task:
    """What the process of a run is told."""

    settings: dict[str, Any]  #: all settings, as `to_plain` returns them
    run_dir: str
    console: str  #: file that takes all output of the process
    logging: dict[str, Any]  #: Hydra's job_logging, resolved
    verbose: bool | str | list[str] = False  #: hydra.verbose
    environment: dict[str, str] = field(default_factory=dict)  #: hydra.job.env_set
    torch_threads: int | None = None  #: per stage, if the settings name no number


class Server:
    """Forks the processes of runs. Starts when it is made."""

    def __init__(self) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        with _standard_library_first():
            ensure_running()

    def start(self, task: Task) -> BaseProcess:
        """Start the process of a run."""
        process = self._context.Process(target=_main, args=(task,), name="run")
        with _without_main():
            process.start()
        return process


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module, which a new process would run again: a script may start its sweep without a guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _standard_library_first() -> Iterator[None]:
    """Start processes in Python's own folder: they import from the current one first, whose files may hide modules."""
    before = Path.cwd()
    os.chdir(Path(os.__file__).parent)
    try:
        yield
    finally:
        os.chdir(before)


def _main(task: Task) -> None:
    os.setsid()  # Ctrl-C reaches the sweep alone, which passes it on
    _write_to(task.console)
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
