"""What a check refuses, as a value that a test can hold against what it expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dni.errors import ConfigError


def refusal_of(check: Callable[..., object], *arguments: Any) -> str | None:
    """The message with which `check` refuses these arguments; None: it accepts them."""
    try:
        check(*arguments)
    except ConfigError as error:
        return str(error)
    return None
