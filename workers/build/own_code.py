"""Errors raised by a class that the settings name, which may be a user's own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dni.errors import ConfigError, DniError, UsageError
from workers.system.errors import as_refusal


@contextmanager
def as_config_error(failed: str, advice: str = "") -> Iterator[None]:
    """Raise an error of the block as ConfigError: one line that ends with the file and line of the error.

    The project's own errors pass unchanged, except UsageError, whose message needs no file and line. Refusals of the
    operating system pass unchanged as well.

    Args:
        failed: start of the message, which names the class and the operation that failed.
        advice: end of the message; tells the user what to change.
    """
    try:
        yield
    except UsageError as error:
        raise ConfigError(f"{failed}: {error}{advice}") from error
    except DniError:
        raise
    except Exception as error:  # a user's code may raise anything
        if as_refusal(error) is not None:
            raise
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{failed}: {type(error).__name__}: {message} ({Path(place.filename).name}, line {place.lineno}){advice}"
        ) from error
