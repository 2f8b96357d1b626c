"""Add the last checkpoint and how to resume to the errors that end a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dni.errors import ConfigError, DniError
from workers.storage.checkpoint import continue_with
from workers.system.errors import as_refusal


@contextmanager
def refusals_with_resume_hint(run_dir: Path) -> Iterator[None]:
    """Raise errors of the operating system as SystemRefused or OutOfMemory with how to resume."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = as_refusal(error)
        if refusal is None:
            raise
        raise type(refusal)(f"{refusal}; {continue_with(run_dir)}") from error


@contextmanager
def with_resume_hint(run_dir: Path) -> Iterator[None]:
    """Add how to resume to the project's errors, except ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except DniError as error:
        raise type(error)(f"{error}; {continue_with(run_dir)}") from error
