"""A channel end that notes when its frames were encoded, sent, here and taken."""

from __future__ import annotations

import time
from collections.abc import Callable

from workers.comm.blame import Blame
from workers.comm.edge import bytes_of
from workers.comm.frame import Frame
from workers.comm.transports.base import ChannelEnd
from workers.runtime.timeline.slices import FrameNote, Timeline


class TracedEnd(ChannelEnd):
    """The end `inner` towards stage `peer`, with its frames noted in the timeline."""

    def __init__(self, inner: ChannelEnd, peer: int, timeline: Timeline) -> None:
        self._inner, self._peer, self._timeline = inner, peer, timeline

    def send(self, frame: Frame) -> None:
        start = time.monotonic()
        with self._timeline.slice("encode"):
            self._inner.send(frame)
        if self._timeline.traces(frame):
            self._timeline.sent.append(self._note(frame, start, time.monotonic()))

    def receive(self, timeout: float | None) -> Frame:
        frame = self._inner.receive(timeout)
        self._taken(frame)
        return frame

    def poll(self) -> Frame | None:
        frame = self._inner.poll()
        if frame is not None:
            self._taken(frame)
        return frame

    def pending(self) -> int:
        return self._inner.pending()

    @property
    def reconnects(self) -> int:
        return self._inner.reconnects

    @property
    def arrived_at(self) -> float | None:
        return self._inner.arrived_at

    def set_blame_source(self, source: Callable[[], Blame | None]) -> None:
        self._inner.set_blame_source(source)

    def blame(self) -> Blame | None:
        return self._inner.blame()

    def close(self) -> None:
        self._inner.close()

    def _taken(self, frame: Frame) -> None:
        if self._timeline.traces(frame):
            now = time.monotonic()
            here = self.arrived_at
            self._timeline.received.append(self._note(frame, now if here is None else here, now))

    def _note(self, frame: Frame, start: float, end: float) -> FrameNote:
        size = bytes_of(frame.tensors)
        return FrameNote(self._peer, frame.sequence, frame.kind.name, frame.step, start, end, size)
