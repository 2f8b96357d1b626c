"""What every transport promises, and the receiving queue all of them use."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from dni.errors import FlowControlError, PeerTimeout
from workers.frame import Frame

CPU = torch.device("cpu")


class ChannelEnd(ABC):
    """One end of an ordered, duplex pipe of frames between two neighbouring stages.

    Frames arrive in the order sent, each once. One thread at a time sends and one receives; they may differ.
    An end knows nothing of credit: `workers.edge` builds that on top.
    """

    @abstractmethod
    def send(self, frame: Frame) -> None:
        """Queue a frame and return at once; its tensors are encoded or cloned and stay the caller's.

        Raises WorkerLost if the link is down, FlowControlError if too many frames wait, SizeMismatch for a
        frame larger than the link carries and ValueError after `close`.
        """

    @abstractmethod
    def receive(self, timeout: float | None) -> Frame:
        """The next frame, waited for at most `timeout` seconds (None: as long as the link is up).

        The frame's tensors belong to the caller. Raises PeerTimeout after `timeout`, the WireError of a
        malformed frame in its place, and WorkerLost once the link is down and all before that was taken.
        """

    @abstractmethod
    def poll(self) -> Frame | None:
        """As `receive`, without waiting: None if nothing is due yet."""

    @abstractmethod
    def pending(self) -> int:
        """Frames that were received and not yet taken, due or not."""

    @abstractmethod
    def close(self) -> None:
        """Deliver what was sent, then end the link: the peer's `receive` raises WorkerLost. Idempotent."""


class Listener(Protocol):
    """Where a stage waits for the stage before it."""

    address: str  #: what to connect to

    def accept(self, timeout: float) -> ChannelEnd:
        """The end of the link to the stage before, once that has connected and agreed.

        Raises PeerTimeout after `timeout` seconds and HandshakeRefused when a stage came and was refused.
        """

    def close(self) -> None:
        """Close every accepted end (which delivers what it sent) and stop listening. Idempotent."""


@dataclass(frozen=True)
class LinkSettings:
    """The settings that both ends of a link share; see `grpc_connect`."""

    limit: int
    max_frame: int
    delay_s: float
    checksum: bool
    timeout_s: float
    device: torch.device = CPU  # of the stage
    ring: int = 0  # bytes of memory that both share for big payloads each way


class Inbox:
    """A bounded queue of received frames, each taken out no sooner than `delay_s` seconds after it came in.

    The delay stands for the one-way latency of a link: it adds to the transport's own and does not limit how
    many frames are under way.
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
        self._down_at = 0.0
        self._items: deque[tuple[float, Frame | Exception]] = deque()
        self._changed = threading.Condition()

    def put(self, item: Frame | Exception) -> None:
        """Append a frame, or the error that takes the place of one.

        Raises FlowControlError (which also fails the inbox) beyond `limit` items, and what it failed with.
        """
        with self._changed:
            if self.failure is not None:
                raise _fresh(self.failure)
            if len(self._items) < self.limit:
                self._items.append((time.monotonic() + self.delay_s, item))
                self._changed.notify_all()
                return
        error = FlowControlError(
            f"more than {self.limit} frames from {self.peer} wait: it exceeds its credit; all stages must "
            "run with the same window"
        )
        self.fail(error)
        raise error

    def fail(self, error: Exception) -> None:
        """Mark the link as down behind what is queued; only the first call counts."""
        with self._changed:
            if self.failure is None:
                self.failure, self._down_at = error, time.monotonic() + self.delay_s
                self._changed.notify_all()

    def take(self, timeout: float | None) -> Frame:
        """The next frame; raises as `ChannelEnd.receive` does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                now = time.monotonic()
                due = self._due()
                if due is not None and due <= now:
                    return self._next()
                if deadline is not None and deadline <= now:
                    raise PeerTimeout(f"no frame from {self.peer} within {timeout:g} s")
                ends = [moment for moment in (due, deadline) if moment is not None]
                self._changed.wait(min(ends) - now if ends else None)

    def poll(self) -> Frame | None:
        """As `take`, without waiting: None if nothing is due yet."""
        with self._changed:
            due = self._due()
            return self._next() if due is not None and due <= time.monotonic() else None

    def pending(self) -> int:
        """Items put and not yet taken."""
        with self._changed:
            return len(self._items)

    def _due(self) -> float | None:
        """When the next frame, error or failure may come out; None if nothing is known to come."""
        if self._items:
            return self._items[0][0]
        return None if self.failure is None else self._down_at

    def _next(self) -> Frame:
        if not self._items:
            assert self.failure is not None
            raise _fresh(self.failure)
        _, item = self._items.popleft()
        if isinstance(item, Exception):
            raise item
        return item if self._arrive is None else self._arrive(item)


def _fresh(error: Exception) -> Exception:
    """A failure is raised as often as it is met, without the trace of the last time."""
    return error.with_traceback(None)
