"""Ranges of numeric settings, declared with the default: `units: int = one_or_more(128)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

#: An upper limit that keeps derived numbers below 64 bits: torch counts weights in 64 bits, and about a thousand random
#: states are derived from each seed.
LARGEST = 10**15


@dataclass(frozen=True)
class Range:
    """The values that a setting may have."""

    words: str  #: the range in an error message, as in "must be 1 or more"
    holds: Callable[[float], bool]
    largest: int | None = LARGEST  #: exclusive upper limit; None: `holds` alone decides


ONE_OR_MORE = Range("1 or more", lambda number: number >= 1)
ZERO_OR_MORE = Range("0 or more, and finite", lambda number: 0 <= number < float("inf"))
ABOVE_ZERO = Range("above 0, and finite", lambda number: 0 < number < float("inf"), largest=None)
BELOW_ONE = Range("0 or more, and below 1", lambda number: 0 <= number < 1, largest=None)
PORT = Range("1 to 65535", lambda number: 1 <= number <= 65535, largest=None)


def one_or_more(default: T) -> T:
    """Return a dataclass field whose value must be at least 1, or None if its type allows that."""
    return _field(default, ONE_OR_MORE)


def zero_or_more(default: T) -> T:
    """Return a dataclass field whose value must be finite and not negative."""
    return _field(default, ZERO_OR_MORE)


def above_zero(default: T) -> T:
    """Return a dataclass field whose value must be finite and positive."""
    return _field(default, ABOVE_ZERO)


def below_one(default: T) -> T:
    """Return a dataclass field whose value must be at least 0 and below 1."""
    return _field(default, BELOW_ONE)


def port(default: T) -> T:
    """Return a dataclass field whose value must be a TCP port, or None if its type allows that."""
    return _field(default, PORT)


def _field(default: T, allowed: Range) -> T:
    declared: Any = field(default=default, metadata={"range": allowed})
    return declared  # type: ignore[no-any-return]
