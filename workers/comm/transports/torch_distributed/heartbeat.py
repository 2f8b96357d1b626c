"""Heartbeats over a link. Each says which stage its sender waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from workers.comm.blame import Blame, read_blame, write_blame
from workers.system.background import background

#: First byte of a heartbeat; an encoded `Blame` follows.
ALIVE = 2

_INTERVAL_S = 1.0  # longest time between two heartbeats
_GOODBYE_S = 2.0  # longest wait for the goodbye of a silent neighbour
_MISSED_BEATS = 4  # after this many missed heartbeats a stage is silent


class Heartbeat:
    """Sends heartbeats and handles those of the neighbour.

    Args:
        stage: index of the neighbour.
        timeout_s: how long stages wait for each other; at least ten heartbeats are sent in that time.
        send: sends one heartbeat.
        on_error: called with an error that ends the thread.
    """

    def __init__(
        self, stage: int, timeout_s: float, send: Callable[[bytes], None], on_error: Callable[[Exception], object]
    ) -> None:
        self._stage, self._send = stage, send
        self._interval_s = min(_INTERVAL_S, timeout_s / 10)
        self._blame_source: Callable[[], Blame | None] = lambda: None
        self._last_message = time.monotonic()
        self._peer_blame: Blame | None = None
        self._ended = threading.Event()
        self.thread = background("dni-heartbeat", self._run, on_error)

    def set_blame_source(self, source: Callable[[], Blame | None]) -> None:
        """Send the result of `source` in every following heartbeat."""
        self._blame_source = source

    def handle(self, message: memoryview) -> bool:
        """Note a message of the neighbour; return whether it was a heartbeat."""
        self._last_message = time.monotonic()
        if message[0] != ALIVE:
            return False
        self._peer_blame = read_blame(message[1:])
        return True

    @property
    def silent(self) -> bool:
        """Whether no message has arrived for several intervals."""
        return time.monotonic() - self._last_message > _MISSED_BEATS * self._interval_s

    def blame(self) -> Blame:
        """Return the stage that the neighbour waits for, or else the neighbour."""
        if self.silent:
            return Blame(self._stage, silent=True)
        return self._peer_blame or Blame(self._stage, silent=False)

    def explain(self) -> str:
        """Return the end of the message of a timeout while waiting for the neighbour."""
        return self.blame().explain(self._stage)

    def goodbye_timeout(self, timeout_s: float) -> float:
        """Return how many seconds to wait for the neighbour's goodbye: fewer if it is silent."""
        return min(timeout_s, _GOODBYE_S) if self.silent else timeout_s

    def end(self) -> None:
        """Stop sending; `thread` ends."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._send(write_blame(self._blame_source()))
