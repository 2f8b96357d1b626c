"""Return the message of a ConfigError as a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dni.errors import ConfigError


def refusal_of(check: Callable[..., object], *arguments: Any) -> str | None:
    """Return the message with which `check` refuses these arguments; None if it accepts them."""
    try:
        check(*arguments)
    except ConfigError as error:
        return str(error)
    return None
