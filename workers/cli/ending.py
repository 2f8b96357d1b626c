"""End a command: every expected error is one line on stderr and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError, DniError
from workers.config.convert import one_line, options_by_setting
from workers.config.quoting import how_to_type
from workers.config.suggest import suggestion
from workers.system.errors import as_refusal
from workers.system.json_logs import as_logged


class Interrupted(DniError):
    """Raised for a run that was stopped from outside and has saved its state."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn every expected error into one line and its exit code."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ConfigError) as error:
        leave(2, explain(error))
    except Interrupted as error:
        leave(130, str(error))
    except DniError as error:
        leave(1, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        leave(130, "stopped without saving; the last checkpoint remains")
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = as_refusal(error)
        if refusal is not None:  # from Hydra before or after the run: inside a run it is a DniError
            leave(2, str(refusal))
        if type(error).__name__ != "UncompletedJobError":  # submitit's, by name: it may not be installed
            raise
        leave(1, f"{' '.join(str(error).splitlines()[:2])}; see the logs of its tasks in the same folder")


@contextmanager
def passed_on() -> Iterator[None]:
    """In a submitit job, print an error to the task's log and pass it on to the submitting process."""
    try:
        yield
    except DniError as error:
        sys.stderr.write(f"dni-train: {type(error).__name__}: {error}\n")
        raise


def explain(error: BaseException) -> str:
    """Return one line: the refused setting, the reason, and the alternatives."""
    text = str(error).split("Config search path")[0].split("To append to your config")[0]
    message = " ".join(text.split("\nSee https://hydra.cc")[0].split())
    if isinstance(error, OverrideParseException):
        named = message if error.override in message else f"Error parsing override '{error.override}' {message}"
        return f"{named}; {how_to_type(error.override)}"
    if isinstance(error, ConfigCompositionException):
        cause = "" if error.__cause__ is None else one_line(error.__cause__)
        missing = "hydra/launcher/submitit_" in message
        cause += " Install it with: pip install hydra-submitit-launcher" if missing else ""
        hint = suggestion(f"{message} {cause}", options_by_setting())
        return f"{message} {cause}{hint} (all settings: dni-train --cfg job)"
    return message


def leave(code: int, message: str) -> NoReturn:
    """Print one line and exit."""
    line = as_logged(f"dni-train: {' '.join(message.splitlines())}", logging.WARNING if code == 130 else logging.ERROR)
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"{line}\n")
    sys.exit(code)
