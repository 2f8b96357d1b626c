"""One run at a time in a run folder: a lock that is free again when its process ends, however it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dni.errors import ConfigError

log = logging.getLogger(__name__)

LOCK = ".lock"


@contextmanager
def locked(run_dir: Path, resumed: Path | None = None) -> Iterator[None]:
    """Hold the lock of a run's folder, and of the one that it goes on from.

    Raises ConfigError, naming the folder, if another process holds one of them, OSError if the run's folder cannot be
    written to. A folder to go on from may be read-only: then no run can be going on in it.
    """
    with ExitStack() as held:
        if resumed is not None and resumed.resolve() != run_dir.resolve():
            with suppress(OSError):
                held.enter_context(_lock(resumed))
        held.enter_context(_lock(run_dir))
        yield


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        lock = FileLock(folder / LOCK, timeout=0).acquire()
    except Timeout as error:
        raise ConfigError(f"{folder}: another run is going on in it; wait until it has ended") from error
    with lock:
        yield
