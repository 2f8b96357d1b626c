"""Errors of a class that the settings name, which may be a user's own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dni.errors import ConfigError, DniError
from workers.system.errors import as_refusal


@contextmanager
def failures_named(what: str) -> Iterator[None]:
    """Raise what fails inside as a ConfigError that begins with `what` and ends with file and line.

    The project's own errors, and what the system refuses, are raised as they are.
    """
    try:
        yield
    except DniError:
        raise
    except Exception as error:  # whatever a user's code raises
        if as_refusal(error) is not None:
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{what}: {type(error).__name__}: {said} ({Path(place.filename).name}, line {place.lineno})"
        ) from error
