"""What the operating system or torch refuses, in the project's words: disk space, permission, memory, processes."""

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
_WAYS = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: f"have the permission given, or {_ELSEWHERE}",
    errno.EPERM: f"have the permission given, or {_ELSEWHERE}",
    errno.ENOENT: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
    errno.EEXIST: _ELSEWHERE,
    errno.EISDIR: _ELSEWHERE,
    errno.ENAMETOOLONG: f"{_ELSEWHERE}, with a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise this system's limit of open files",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u)",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EIO: "the disk fails: copy the run to another one",
}

#: Words of torch, its libraries and its GPUs for memory that they did not get.
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|could not create a (primitive|memory object)"
    r"|Storage size calculation overflowed|numel: integer multiplication overflow|invalid (buffer|array) size"
    r"|ALLOC_FAILED|Cannot allocate memory|Unable to allocate"
)
_GPU = re.compile(r"CUDA|CUBLAS|CUDNN|HIP")
_BYTES = re.compile(r"tried to allocate (\d+) bytes")
LESS = "lower model.units, a predictor's hidden, data.batch or data.window, or run it where there is more memory"


def as_refusal(error: BaseException) -> SystemRefused | None:
    """The project's error for what was refused, with what to do; None if this is no refusal, or is named already."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OutOfMemory(f"out of memory{_in_brackets(error)}: {LESS}")
    if isinstance(error, OSError):
        return SystemRefused(_said_of_file(error))
    if isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)):
        where = "the GPU is out of memory" if _GPU.search(str(error)) else "out of memory"
        return OutOfMemory(f"{where}{_in_brackets(error)}: {LESS}")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return SystemRefused(f"no new thread can be started: {_WAYS[errno.EAGAIN]}")
    return None


@contextmanager
def refusals_named() -> Iterator[None]:
    """What is refused inside is raised as SystemRefused or OutOfMemory."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = as_refusal(error)
        if refusal is None:
            raise
        raise refusal from error


@contextmanager
def refusals_at_the_door() -> Iterator[None]:
    """What is refused inside, where no stage has started yet, is raised as ConfigError: settings that cannot be run."""
    try:
        with refusals_named():
            yield
    except SystemRefused as refusal:
        raise ConfigError(str(refusal)) from refusal


@contextmanager
def about(path: Path) -> Iterator[None]:
    """An OSError inside names this file: what is refused in the middle of a file does not say of which."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def name_refusals_of_threads() -> None:
    """A background thread that ends by a refusal is a line in the log, not a traceback."""
    before = threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        refusal = None if ended.exc_value is None else as_refusal(ended.exc_value)
        if refusal is None:
            before(ended)
        else:
            log.warning("%s has ended: %s", ended.thread.name if ended.thread else "a thread", refusal)

    threading.excepthook = hook


def memory_kills() -> int:
    """How many processes this system has killed for want of memory since it started; 0 where it does not say."""
    with suppress(OSError):
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counters.get("oom_kill", 0))
    return 0


def _said_of_file(error: OSError) -> str:
    what = "" if error.filename is None else f"{error.filename}: "
    way = _WAYS.get(error.errno or 0)
    return f"{what}{error.strerror or error}" + ("" if way is None else f": {way}")


def _in_brackets(error: BaseException) -> str:
    """How much was asked for, if that is known, else what was said."""
    asked = _BYTES.search(str(error))
    if asked is not None:
        return f" ({_amount(int(asked[1]))} were asked for)"
    said = " ".join(str(error).split()).partition(". GPU ")[0]  # CUDA goes on with figures of the GPU and advice
    return f" ({said[:200].rstrip('.')})" if said else ""


def _amount(nbytes: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f} {unit}"
    return f"{nbytes:,} bytes"
