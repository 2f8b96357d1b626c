"""The receiving queue that all transports use, and the end of a link that receives through one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from dni.errors import FlowControlError, PeerTimeout
from workers.comm.frame import Frame
from workers.comm.transports.base import ChannelEnd

#: When it may come out, and a frame, the error in the place of one, or None: the link is down.
_Item: TypeAlias = tuple[float, Frame | Exception | None]


class Inbox:
    """A bounded queue of received frames, each taken out no sooner than `delay_s` seconds after it came in.

    The delay stands for the one-way latency of a link: it adds to the transport's own and does not limit how
    many frames are under way. Frames are put by one thread, and taken by one.
    """

    def __init__(
        self,
        limit: int,
        delay_s: float = 0.0,
        peer: str = "the neighbouring stage",
        arrive: Callable[[Frame], Frame] | None = None,
    ) -> None:
        self.limit = limit
        self.delay_s = delay_s
        self.peer = peer  #: who sends, for messages
        self._arrive = arrive  #: done to every frame by the thread that takes it
        self.failure: Exception | None = None
        self._failing = threading.Lock()
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()  # quicker to wake who waits than a condition is
        self._first: _Item | None = None  # out of the queue, and not yet due

    def put(self, item: Frame | Exception) -> None:
        """Append a frame, or the error that takes the place of one.

        Raises FlowControlError (which also fails the inbox) beyond `limit` items, and what it failed with.
        """
        if self.failure is not None:
            raise _fresh(self.failure)
        if self.pending() < self.limit:
            self._items.put((time.monotonic() + self.delay_s, item))
            return
        error = FlowControlError(
            f"more than {self.limit} frames from {self.peer} wait: it exceeds its credit; all stages must "
            "run with the same window"
        )
        self.fail(error)
        raise error

    def fail(self, error: Exception) -> None:
        """Mark the link as down behind what is queued; only the first call counts."""
        with self._failing:
            if self.failure is None:
                self.failure = error
                self._items.put((time.monotonic() + self.delay_s, None))

    def take(self, timeout: float | None) -> Frame:
        """The next frame; raises as `ChannelEnd.receive` does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            due = self._peek(timeout)
        except queue.Empty:
            raise self._late(timeout) from None
        now = time.monotonic()
        if deadline is not None and now < due > deadline:
            time.sleep(max(0.0, deadline - now))
            raise self._late(timeout)
        if due > now:
            time.sleep(due - now)
        return self._next()

    def poll(self) -> Frame | None:
        """As `take`, without waiting: None if nothing is due yet."""
        try:
            return self._next() if self._peek(0) <= time.monotonic() else None
        except queue.Empty:
            return None

    def pending(self) -> int:
        """Items put and not yet taken."""
        waiting = self._items.qsize() + (self._first is not None)
        return waiting if self.failure is None else max(0, waiting - 1)

    def _peek(self, timeout: float | None) -> float:
        """When the first item may come out. Raises queue.Empty if there is none within so many seconds."""
        if self._first is None:
            self._first = self._items.get(timeout != 0, timeout)
        return self._first[0]

    def _next(self) -> Frame:
        assert self._first is not None
        item = self._first[1]
        if item is None:  # stays the first
            assert self.failure is not None
            raise _fresh(self.failure)
        self._first = None
        if isinstance(item, Exception):
            raise item
        return item if self._arrive is None else self._arrive(item)

    def _late(self, timeout: float | None) -> PeerTimeout:
        return PeerTimeout(f"no frame from {self.peer} within {timeout:g} s")


class InboxEnd(ChannelEnd):
    """One end that receives through an inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._closed = False

    def receive(self, timeout: float | None) -> Frame:
        return self._inbox.take(timeout)

    def poll(self) -> Frame | None:
        return self._inbox.poll()

    def pending(self) -> int:
        return self._inbox.pending()

    def _check_open(self, frame: Frame) -> None:
        """Raises ValueError after `close`, and what the link failed with."""
        if self._closed:
            raise ValueError(f"{self._where(frame)} sent after this end was closed")
        self._raise_if_lost()

    def _raise_if_lost(self) -> None:
        if self._inbox.failure is not None:
            raise _fresh(self._inbox.failure)

    def _where(self, frame: Frame) -> str:
        return f"step {frame.step}: {frame.kind.name} to {self._inbox.peer}"


def _fresh(error: Exception) -> Exception:
    """A failure is raised as often as it is met, without the trace of the last time."""
    return error.with_traceback(None)
