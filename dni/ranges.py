"""The range of a numeric setting, written beside its default: `units: int = one_or_more(128)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

#: torch counts in 64 bits: a thousand random states, which are made from every seed, and weights by some thousands.
LARGEST = 10**15


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have."""

    words: str  #: as in "must be 1 or more"
    holds: Callable[[float], bool]
    largest: int | None = LARGEST  #: a number must be below it; None: the range has an end of its own


ONE_OR_MORE = Range("1 or more", lambda number: number >= 1)
ZERO_OR_MORE = Range("0 or more, and finite", lambda number: 0 <= number < float("inf"))
ABOVE_ZERO = Range("above 0, and finite", lambda number: 0 < number < float("inf"), largest=None)
BELOW_ONE = Range("0 or more, and below 1", lambda number: 0 <= number < 1, largest=None)


def one_or_more(default: T) -> T:
    """A field of a dataclass, whose number is at least 1 (or None, where its type says so)."""
    return _field(default, ONE_OR_MORE)


def zero_or_more(default: T) -> T:
    """A field whose number is finite and not negative."""
    return _field(default, ZERO_OR_MORE)


def above_zero(default: T) -> T:
    """A field whose number is finite and positive."""
    return _field(default, ABOVE_ZERO)


def below_one(default: T) -> T:
    """A field whose number is at least 0 and below 1."""
    return _field(default, BELOW_ONE)


def _field(default: T, allowed: Range) -> T:
    made: Any = field(default=default, metadata={"range": allowed})
    return made  # type: ignore[no-any-return]
