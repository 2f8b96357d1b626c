"""The receive queue of all transports, and the channel end that receives through it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from dni.errors import FlowControlError, PeerTimeout, WorkerLost
from workers.comm.frame import Frame
from workers.comm.transports.base import ChannelEnd

#: Time when it may be taken, and a frame, an error in place of one, or None (the link is down).
_Item: TypeAlias = tuple[float, Frame | Exception | None]


class Inbox:
    """A bounded queue of received frames. Each can be taken `delay_s` seconds after it was put.

    The delay emulates the one-way latency of a link. It adds to the transport's own latency and does not limit the
    number of frames in flight. One thread puts frames, one takes them.

    Args:
        limit: frames that may wait.
        delay_s: emulated latency in seconds.
        peer: name of the sender, for messages.
        on_take: applied to every frame by the thread that takes it.
    """

    def __init__(
        self,
        limit: int,
        delay_s: float = 0.0,
        peer: str = "the neighbouring stage",
        on_take: Callable[[Frame], Frame] | None = None,
    ) -> None:
        self.limit = limit
        self.delay_s = delay_s
        self.peer = peer
        self._on_take = on_take
        self.failure: Exception | None = None
        self.arrived_at: float | None = None  #: when the item taken last could be taken
        self._failing = threading.Lock()
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()  # wakes a waiting thread faster than a Condition
        self._first: _Item | None = None  # taken from the queue, delay not yet over

    def put(self, item: Frame | Exception) -> None:
        """Append a frame, or an error in place of one.

        Raises FlowControlError, which also fails the inbox, above `limit` items. Raises the failure of a failed inbox.
        """
        if self.failure is not None:
            raise _without_traceback(self.failure)
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
        """Mark the link as down after the queued frames. Only the first call has an effect."""
        with self._failing:
            if self.failure is None:
                self.failure = error
                self._items.put((time.monotonic() + self.delay_s, None))

    def take(self, timeout: float | None) -> Frame:
        """Wait for the next frame. Raises as `ChannelEnd.receive`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            due_at = self._peek(timeout)
        except queue.Empty:
            raise self._timeout_error(timeout) from None
        now = time.monotonic()
        if deadline is not None and now < due_at > deadline:
            time.sleep(max(0.0, deadline - now))
            raise self._timeout_error(timeout)
        if due_at > now:
            time.sleep(due_at - now)
        return self._next()

    def poll(self) -> Frame | None:
        """Return the next frame, or None if none can be taken yet. Raises as `take`, without PeerTimeout."""
        try:
            return self._next() if self._peek(0) <= time.monotonic() else None
        except queue.Empty:
            return None

    def pending(self) -> int:
        """Return the number of items put and not yet taken."""
        waiting = self._items.qsize() + (self._first is not None)
        return waiting if self.failure is None else max(0, waiting - 1)

    def _peek(self, timeout: float | None) -> float:
        """Return when the first item can be taken. Raises queue.Empty if none arrives within `timeout` seconds."""
        if self._first is None:
            self._first = self._items.get(timeout != 0, timeout)
        return self._first[0]

    def _next(self) -> Frame:
        assert self._first is not None
        self.arrived_at, item = self._first
        if item is None:  # keep it: the link stays down
            assert self.failure is not None
            raise _without_traceback(self.failure)
        self._first = None
        if isinstance(item, Exception):
            raise item
        return item if self._on_take is None else self._on_take(item)

    def _timeout_error(self, timeout: float | None) -> PeerTimeout:
        return PeerTimeout(f"no frame from {self.peer} within {timeout:g} s")


class InboxEnd(ChannelEnd):
    """A channel end that receives through an inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._closed = False

    def receive(self, timeout: float | None) -> Frame:
        return self._inbox.take(timeout)

    def poll(self) -> Frame | None:
        return self._inbox.poll()

    def pending(self) -> int:
        return self._inbox.pending()

    @property
    def arrived_at(self) -> float | None:
        return self._inbox.arrived_at

    def give_up(self) -> None:
        self._inbox.fail(WorkerLost(f"{self._inbox.peer} is gone"))

    def _check_open(self, frame: Frame) -> None:
        """Raise ValueError after `close`, or the failure of the link."""
        if self._closed:
            raise ValueError(f"{self._where(frame)} sent after this end was closed")
        self._raise_if_lost()

    def _raise_if_lost(self) -> None:
        if self._inbox.failure is not None:
            raise _without_traceback(self._inbox.failure)

    def _where(self, frame: Frame) -> str:
        return f"step {frame.step}: {frame.kind.name} to {self._inbox.peer}"


def _without_traceback(error: Exception) -> Exception:
    """Drop the traceback of the last time that this failure was raised."""
    return error.with_traceback(None)
