"""End links before the interpreter exits: a thread that returns from torch during exit would abort the process."""

from __future__ import annotations

import atexit
from typing import Protocol
from weakref import WeakSet


class Abandonable(Protocol):
    """An object whose threads can be ended."""

    def abandon(self) -> None:
        """End the threads and the operations they wait for."""


_open: WeakSet[Abandonable] = WeakSet()


def abandon_at_exit(item: Abandonable) -> None:
    """Call `item.abandon()` when the interpreter exits, if the item still exists."""
    _open.add(item)


@atexit.register
def _abandon_all() -> None:
    for item in list(_open):
        item.abandon()
