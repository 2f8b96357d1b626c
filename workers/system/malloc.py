"""Keep freed memory in the process for the next big tensors: fresh pages from the system must be zeroed each time."""

from __future__ import annotations

import ctypes
import os
import sys

_MB = 2**20
#: Settings of glibc's allocator: environment variable, number for mallopt, values to try in order.
_SETTINGS = (
    ("MALLOC_MMAP_THRESHOLD_", -3, (256 * _MB, 32 * _MB)),  # older versions accept at most 32 MB
    ("MALLOC_TRIM_THRESHOLD_", -1, (1024 * _MB,)),
    ("MALLOC_TOP_PAD_", -2, (64 * _MB,)),
)


def keep_memory() -> None:
    """Make glibc's malloc keep freed memory. Settings in the environment win; other allocators are not changed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    for name, number, values in _SETTINGS:
        if name not in os.environ:
            any(mallopt(number, value) for value in values)
