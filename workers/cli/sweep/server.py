"""The server that forks the processes of a sweep's runs.

It has imported what runs and their stages need (`workers.cli.sweep.imports`), and has done nothing else: it has no
links, no CUDA context and no threads, except those of OpenBLAS, which it stops before each fork. Each run has a process
of its own, so nothing goes over from one to the next, and need not import torch again.

This module imports only the standard library: the server starts while the command itself still imports.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from workers.cli.sweep.flags import is_sweep

if TYPE_CHECKING:
    from workers.cli.sweep.run_process import Task


class Server:
    """Forks the processes of runs. Starts when the first one is made; later ones are the same server."""

    def __init__(self) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["workers.cli.sweep.imports"])
        with _standard_library_first():
            ensure_running()

    def start(self, task: Task) -> BaseProcess:
        """Start the process of a run."""
        from workers.cli.sweep.run_process import run_task  # slow to import

        process = self._context.Process(target=run_task, args=(task,), name="run")
        with _without_main():
            process.start()
        return process


def start_early(arguments: Sequence[str]) -> None:
    """Start the server, if the command is a sweep that needs one; leave an error to the sweep, which starts it too."""
    if is_sweep(arguments) and not any(word.startswith("hydra/launcher=") for word in arguments):
        with suppress(OSError):
            Server()


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
