"""Signs of life of the ranks of a process group, in its store: who is silent when a rank waits in vain."""

from __future__ import annotations

import threading
import time

from torch.distributed.distributed_c10d import Store

from workers.system.background import background

_MOST_S = 1.0  # between two signs
_MISSED = 4  # signs, after which a stage is silent


class RollCall:
    """A thread that gives a sign every so often, and looks for those of all others.

    Args:
        store: of the group; nobody waits in it for long.
        rank, size: this stage, and how many there are.
        timeout_s: how long stages wait for each other; there are at least ten signs in that time.
        hosted: whether stage 0 has the store, so that it is silent if the store is.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout_s: float, *, hosted: bool) -> None:
        self._store, self._rank, self._hosted = store, rank, hosted
        self._every_s = min(_MOST_S, timeout_s / 10)
        self._keys = [f"alive/{k}" for k in range(size)]
        self._said = [b""] * size
        self._looked = time.monotonic()
        self._heard = [self._looked] * size
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = background("dni-roll-call", self._call, self._died)
        self._thread.start()

    def silent(self) -> int | None:
        """The stage of which nothing has been heard for longest, if that is a while. Raises what ended the thread."""
        if self._failure is not None:
            raise self._failure
        patience, looked = _MISSED * self._every_s, self._looked
        if time.monotonic() - looked > patience:
            return 0 if self._hosted and self._rank else None
        first = min(range(len(self._heard)), key=self._heard.__getitem__)
        return first if looked - self._heard[first] > patience else None

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join(_MOST_S)

    def _died(self, error: Exception) -> None:
        self._failure = error  # the run does not need the thread until a stage is lost

    def _call(self) -> None:
        count = 0
        while not self._over.wait(self._every_s if count else 0):
            count += 1
            try:
                self._store.set(self._keys[self._rank], str(count))
                said = self._store.multi_get(self._keys)
            except RuntimeError:  # the store is gone, or not all stages have come yet
                continue
            self._looked = time.monotonic()
            for k, (new, old) in enumerate(zip(said, self._said, strict=True)):
                if new != old:
                    self._heard[k] = self._looked
            self._said = said
