"""Background threads. An error that ends one is reported to the run, with its cause."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dni.errors import DniError, ThreadDied

log = logging.getLogger(__name__)

#: Errors whose message explains the problem without a traceback or the name of a thread.
SELF_EXPLANATORY = (DniError, OSError, MemoryError)


def background(name: str, work: Callable[[], object], on_error: Callable[[Exception], object]) -> threading.Thread:
    """Return a daemon thread that runs `work`; the caller starts it.

    The thread passes an error raised by `work` to `on_error`. Errors of `SELF_EXPLANATORY` are passed unchanged. Any
    other is logged with its traceback and passed as `ThreadDied`. `on_error` must end the run, or wake the thread that
    will.
    """

    def run() -> None:
        try:
            work()
        except BaseException as error:  # includes SystemExit, which threading ignores
            on_error(as_thread_error(name, error))

    return threading.Thread(target=run, name=name, daemon=True)


def as_thread_error(name: str, error: BaseException) -> Exception:
    """Return the error to report to the run for an error that ended a thread."""
    if isinstance(error, SELF_EXPLANATORY):
        return error
    log.error("thread %s ended with an error", name, exc_info=error)
    wrapped = ThreadDied(f"its thread {name} ended with {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
