"""Lock a run folder, so that one run at a time writes there. The lock is released when its process ends in any way."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dni.errors import ConfigError

log = logging.getLogger(__name__)

LOCK = ".lock"

#: Seconds to wait for the lock: a reader of a run's state (`is_locked`) holds it for a moment.
READERS_S = 0.2


@contextmanager
def locked(run_dir: Path, resumed: Path | None = None) -> Iterator[None]:
    """Hold the lock of a run's folder, and of the folder that it resumes.

    Raises ConfigError, naming the folder, if another process holds one of them, OSError if the run's folder cannot be
    written to. A resumed folder may be read-only: then no run can write there.
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
        lock = FileLock(folder / LOCK, timeout=READERS_S).acquire()
    except Timeout as error:
        raise ConfigError(f"{folder}: another run is writing to this folder; wait until it has ended") from error
    with lock:
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a run's folder. Writes nothing, and does not wait."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released with the file
    except BlockingIOError:
        return True
    except OSError:  # no lock, or none that this user may read
        return False
    return False
