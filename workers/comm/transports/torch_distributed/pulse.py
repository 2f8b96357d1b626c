"""A sign of life every so often over a link, which says whom the sender waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from workers.comm.blame import Blame, read_blame, write_blame
from workers.system.background import background

#: The first byte of a sign; what follows is a `Blame`.
ALIVE = 2

_MOST_S = 1.0  # between two signs
_GOODBYE_S = 2.0
_MISSED = 4  # signs, after which a stage is silent


class Pulse:
    """Sends signs of life, and takes in the neighbour's.

    Args:
        stage: the neighbour.
        timeout_s: how long stages wait for each other; there are at least ten signs in that time.
        send: sends one sign.
        died: is told of an error that ends the thread.
    """

    def __init__(
        self, stage: int, timeout_s: float, send: Callable[[bytes], None], died: Callable[[Exception], object]
    ) -> None:
        self._stage, self._send = stage, send
        self._every_s = min(_MOST_S, timeout_s / 10)
        self._whom: Callable[[], Blame | None] = lambda: None
        self._heard = time.monotonic()
        self._told: Blame | None = None
        self._over = threading.Event()
        self.thread = background("dni-pulse", self._beat, died)

    def tell(self, whom: Callable[[], Blame | None]) -> None:
        """From now on, signs say what this returns."""
        self._whom = whom

    def takes(self, message: memoryview) -> bool:
        """Hear of a message from the neighbour; whether it was no more than a sign of life."""
        self._heard = time.monotonic()
        if message[0] != ALIVE:
            return False
        self._told = read_blame(message[1:])
        return True

    @property
    def silent(self) -> bool:
        """Whether nothing has come for a while."""
        return time.monotonic() - self._heard > _MISSED * self._every_s

    def blamed(self) -> Blame:
        """The neighbour, or whom it said that it waits for."""
        if self.silent:
            return Blame(self._stage, silent=True)
        return self._told or Blame(self._stage, silent=False)

    def explain(self) -> str:
        """What is added to the message of who waited for the neighbour in vain."""
        return self.blamed().explain(self._stage)

    def patience(self, timeout_s: float) -> float:
        """How long to wait for the neighbour's goodbye, in seconds: not so long if it is silent."""
        return min(timeout_s, _GOODBYE_S) if self.silent else timeout_s

    def end(self) -> None:
        """Send no more; `thread` ends."""
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(self._every_s):
            self._send(write_blame(self._whom()))
