"""The memory that big tensors took is kept for the next ones: the system would clear it page by page each time."""

from __future__ import annotations

import ctypes
import os
import sys

_MB = 2**20
#: For glibc's allocator: the environment variable by which a user may have set it, its number, what to set in turn.
_SETTINGS = (
    ("MALLOC_MMAP_THRESHOLD_", -3, (256 * _MB, 32 * _MB)),  # older ones take 32 MB at most
    ("MALLOC_TRIM_THRESHOLD_", -1, (1024 * _MB,)),
    ("MALLOC_TOP_PAD_", -2, (64 * _MB,)),
)


def keep_memory() -> None:
    """Have this process keep freed memory; what the user has set wins, and another allocator is left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    for name, number, values in _SETTINGS:
        if name not in os.environ:
            any(mallopt(number, value) for value in values)
