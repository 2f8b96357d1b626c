"""Treat a stage that exits before its work is done as failed, whatever its exit status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dni.errors import EndedEarly


@contextmanager
def no_early_exit() -> Iterator[None]:
    """Raise EndedEarly for a `sys.exit` inside the block, which would otherwise look like a successful end."""
    try:
        yield
    except SystemExit as error:
        raise EndedEarly(f"it asked to exit with status {error.code or 0} before its work was done") from error
