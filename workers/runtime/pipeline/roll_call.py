"""Heartbeats of the ranks of a process group, in its store: they tell which rank has failed."""

from __future__ import annotations

import threading
import time

from torch.distributed.distributed_c10d import Store

from workers.system.background import background

_LONGEST_INTERVAL_S = 1.0  # between heartbeats
_MISSED = 4  # heartbeats, after which a stage counts as silent


class RollCall:
    """A thread that writes heartbeats to the store and watches those of all other ranks.

    Args:
        store: key-value store of the group.
        rank, size: this rank, and the number of ranks.
        timeout_s: how long stages wait for each other, in seconds; at least ten heartbeats fall into that time.
        hosted: whether rank 0 hosts the store, so that a silent store means a silent rank 0.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout_s: float, *, hosted: bool) -> None:
        self._store, self._rank, self._hosted = store, rank, hosted
        self._every_s = min(_LONGEST_INTERVAL_S, timeout_s / 10)
        self._keys = [f"alive/{k}" for k in range(size)]
        self._beats = [b""] * size
        self._checked = time.monotonic()
        self._last_seen = [self._checked] * size
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = background("dni-roll-call", self._run, self._died)
        self._thread.start()

    def silent(self) -> int | None:
        """Return the rank silent for longest, None if all are alive. Raises an error that ended the thread."""
        if self._failure is not None:
            raise self._failure
        limit, checked = _MISSED * self._every_s, self._checked
        if time.monotonic() - checked > limit:
            return 0 if self._hosted and self._rank else None
        rank = min(range(len(self._last_seen)), key=self._last_seen.__getitem__)
        return rank if checked - self._last_seen[rank] > limit else None

    def end(self) -> None:
        """Stop the thread."""
        self._ended.set()
        self._thread.join(_LONGEST_INTERVAL_S)

    def _died(self, error: Exception) -> None:
        self._failure = error  # raised by `silent`: the run needs the thread only if a stage is lost

    def _run(self) -> None:
        count = 0
        while not self._ended.wait(self._every_s if count else 0):
            count += 1
            try:
                self._store.set(self._keys[self._rank], str(count))
                beats = self._store.multi_get(self._keys)
            except RuntimeError:  # the store is gone, or some ranks have not started
                continue
            self._checked = time.monotonic()
            for k, (new, old) in enumerate(zip(beats, self._beats, strict=True)):
                if new != old:
                    self._last_seen[k] = self._checked
            self._beats = beats
