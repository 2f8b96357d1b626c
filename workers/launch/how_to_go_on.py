"""How a run that breaks ends: one line with the cause, the last checkpoint, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dni.errors import ConfigError, DniError
from workers.storage.checkpoint import continue_with
from workers.system.errors import as_refusal


@contextmanager
def refusals_in_a_run(run_dir: Path) -> Iterator[None]:
    """What the system refuses inside is raised as SystemRefused or OutOfMemory that says how to go on."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = as_refusal(error)
        if refusal is None:
            raise
        raise type(refusal)(f"{refusal}; {continue_with(run_dir)}") from error


@contextmanager
def saying_how_to_go_on(run_dir: Path) -> Iterator[None]:
    """Errors of the project inside, but for refused settings, say how to go on."""
    try:
        yield
    except ConfigError:
        raise
    except DniError as error:
        raise type(error)(f"{error}; {continue_with(run_dir)}") from error
