"""Freed memory is kept for the next tensors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Prints the page faults for memory that is allocated and freed 20 times.
PROGRAM = """
import resource
from workers.system.malloc import keep_memory
keep_memory()
bytearray(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 2**24 // 4096


def faults(**settings: str) -> int:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=plain | settings, check=True, capture_output=True, text=True, timeout=60
    )
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc's")
def test_freed_pages_are_reused() -> None:
    assert faults() < PAGES


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc's")
def test_users_environment_wins() -> None:
    assert faults(MALLOC_MMAP_THRESHOLD_="65536") >= 20 * PAGES
