"""Turn errors of the operating system and of torch (disk, permissions, memory, processes) into the project's errors."""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dni.errors import ConfigError, OutOfMemory, SystemRefused

log = logging.getLogger(__name__)

_ELSEWHERE = "name another folder (hydra.run.dir=FOLDER)"
_REMEDIES = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: f"get the permission, or {_ELSEWHERE}",
    errno.EPERM: f"get the permission, or {_ELSEWHERE}",
    errno.ENOENT: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
    errno.EEXIST: _ELSEWHERE,
    errno.EISDIR: _ELSEWHERE,
    errno.ENAMETOOLONG: f"{_ELSEWHERE}, with a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise this system's limit of open files",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u)",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EIO: "the disk is failing: copy the run to another one",
}

#: Out-of-memory messages of torch, its libraries and CUDA.
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc"
    r"|could not create a (primitive(?! descriptor)|memory object)"
    r"|Storage size calculation overflowed|numel: integer multiplication overflow|invalid (buffer|array) size"
    r"|ALLOC_FAILED|Cannot allocate memory|Unable to allocate"
)
_GPU = re.compile(r"CUDA|CUBLAS|CUDNN|HIP")
_BYTES = re.compile(r"tried to allocate (\d+) bytes")
LESS = "lower model.units, a predictor's hidden, data.batch or data.window, or run it where there is more memory"


def as_refusal(error: BaseException) -> SystemRefused | None:
    """Return the project's error, with a remedy, for an error of the system; None for any other error."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OutOfMemory(f"out of memory{_details(error)}: {LESS}")
    if isinstance(error, OSError):
        return SystemRefused(_file_message(error))
    if isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)):
        where = "the GPU is out of memory" if _GPU.search(str(error)) else "out of memory"
        return OutOfMemory(f"{where}{_details(error)}: {LESS}")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return SystemRefused(f"no new thread can be started: {_REMEDIES[errno.EAGAIN]}")
    return None


@contextmanager
def refusals_named() -> Iterator[None]:
    """Raise errors of the system inside the block as SystemRefused or OutOfMemory."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = as_refusal(error)
        if refusal is None:
            raise
        raise refusal from error


@contextmanager
def refusals_at_the_door() -> Iterator[None]:
    """Raise errors of the system inside the block as ConfigError. For code that runs before any stage has started."""
    try:
        with refusals_named():
            yield
    except SystemRefused as refusal:
        raise ConfigError(str(refusal)) from refusal


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Add this file's name to an OSError inside the block: errors of read and write carry none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def name_refusals_of_threads() -> None:
    """Log one line, without a traceback, when an error of the system ends a background thread."""
    before = threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        refusal = None if ended.exc_value is None else as_refusal(ended.exc_value)
        if refusal is None:
            before(ended)
        else:
            log.warning("%s has ended: %s", ended.thread.name if ended.thread else "a thread", refusal)

    threading.excepthook = hook


def memory_kills() -> int:
    """Return how many processes the system has killed for lack of memory since boot; 0 if it does not report this."""
    with suppress(OSError):
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counters.get("oom_kill", 0))
    return 0


def _file_message(error: OSError) -> str:
    name = "" if error.filename is None else f"{error.filename}: "
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{name}{error.strerror or error}" + ("" if remedy is None else f": {remedy}")


def _details(error: BaseException) -> str:
    """Return the requested size in brackets if the error has it, else its message."""
    requested = _BYTES.search(str(error))
    if requested is not None:
        return f" ({_readable_size(int(requested[1]))} were requested)"
    message = " ".join(str(error).split()).partition(". GPU ")[0]  # without CUDA's memory statistics and advice
    return f" ({message[:200].rstrip('.')})" if message else ""


def _readable_size(nbytes: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f} {unit}"
    return f"{nbytes:,} bytes"
