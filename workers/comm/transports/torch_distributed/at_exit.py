"""What waits inside torch is woken before the interpreter ends: a thread that comes back to one that ends aborts it."""

from __future__ import annotations

import atexit
from typing import Protocol
from weakref import WeakSet


class Abandonable(Protocol):
    """Something with threads."""

    def abandon(self) -> None:
        """End them, and what they wait for."""


_open: WeakSet[Abandonable] = WeakSet()


def abandon_at_exit(one: Abandonable) -> None:
    """Have it abandoned when the interpreter ends, if it still is there."""
    _open.add(one)


@atexit.register
def _abandon_all() -> None:
    for one in list(_open):
        one.abandon()
