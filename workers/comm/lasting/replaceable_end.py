"""A channel end whose link is replaced when the neighbour was started again."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable

from dni.errors import WorkerLost
from workers.comm.frame import Frame
from workers.comm.transports.base import ChannelEnd
from workers.system.background import background

log = logging.getLogger(__name__)


class ReplaceableEnd(ChannelEnd):
    """Passes frames to and from the end of the present link. The edge that holds it decides when the next one begins.

    Args:
        peer: name of the neighbour, for messages.
        on_first: called with the step of the first frame when it has been handled, as a second one is received.
    """

    def __init__(self, peer: str, on_first: Callable[[int], None] = lambda step: None) -> None:
        self.peer, self.announced = peer, False  #: announced: the neighbour is lost, and will be started again
        self._end: ChannelEnd | None = None
        self._offered: queue.SimpleQueue[ChannelEnd] = queue.SimpleQueue()
        self._on_first: Callable[[int], None] | None = on_first
        self._first: int | None = None  # step of the first frame

    def offer(self, end: ChannelEnd) -> None:
        """Offer the end of a new link, in any thread; `renew` continues on it."""
        self._offered.put(end)

    def give_up(self) -> None:
        """End the present link, whose neighbour is lost; another link will be offered."""
        self.announced = True
        if self._end is not None:
            self._end.give_up()

    def renew(self, timeout_s: float = 0.0) -> bool:
        """Continue on a link that was offered since the last call; wait for it. Returns whether there is one."""
        try:
            newest = self._offered.get(timeout=timeout_s) if timeout_s > 0 else self._offered.get_nowait()
        except queue.Empty:
            return False
        old, self._end, self.announced = self._end, newest, False
        if old is not None:
            old.give_up()
            background("dni-close", old.close, self._not_closed).start()
        return True

    @property
    def reconnects(self) -> int:
        """How often the connection of the present link was lost and made anew."""
        return 0 if self._end is None else self._end.reconnects

    def send(self, frame: Frame) -> None:
        self._present().send(frame)

    def receive(self, timeout: float | None) -> Frame:
        return self._noted(self._present().receive(timeout))

    def poll(self) -> Frame | None:
        frame = self._present().poll()
        return None if frame is None else self._noted(frame)

    def pending(self) -> int:
        return 0 if self._end is None else self._end.pending()

    def close(self) -> None:
        if self._end is not None:
            self._end.close()

    def _present(self) -> ChannelEnd:
        if self._end is None:
            raise WorkerLost(f"{self.peer} has no link yet")
        return self._end

    def _noted(self, frame: Frame) -> Frame:
        if self._first is None:
            self._first = frame.step
        elif self._on_first is not None:
            self._on_first(self._first)
            self._on_first = None
        return frame

    def _not_closed(self, error: Exception) -> None:
        log.warning("the old link to %s was not closed: %s", self.peer, error)
