"""Threads that work in the background: an error that ends one reaches the run, with its cause."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dni.errors import DniError, ThreadDied

log = logging.getLogger(__name__)

#: Errors that say by themselves what is wrong, whichever thread meets them.
TELLING = (DniError, OSError, MemoryError)


def background(name: str, work: Callable[[], object], died: Callable[[Exception], object]) -> threading.Thread:
    """A daemon thread that does `work`, not yet started.

    An error that leaves `work` is given to `died`, in that thread: one of `TELLING` as it is; any other is logged with
    its traceback, and given as `ThreadDied`. `died` must end the run, or wake the thread that will.
    """

    def run() -> None:
        try:
            work()
        except BaseException as error:  # SystemExit as well, which threading would pass over in silence
            died(thread_died(name, error))

    return threading.Thread(target=run, name=name, daemon=True)


def thread_died(name: str, error: BaseException) -> Exception:
    """What the run is told of an error that ended a thread."""
    if isinstance(error, TELLING):
        return error
    log.error("thread %s ended with an error", name, exc_info=error)
    found = ThreadDied(f"its thread {name} ended with {type(error).__name__}: {error}")
    found.__cause__ = error
    return found
