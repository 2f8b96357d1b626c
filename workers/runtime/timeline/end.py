"""A channel end that notes when its frames were encoded, sent, here and taken."""

from __future__ import annotations

import time

from workers.comm.edge import bytes_of
from workers.comm.frame import Frame
from workers.comm.transports.base import ChannelEnd, WrappedEnd
from workers.runtime.timeline.slices import FrameNote, Timeline


class TracedEnd(WrappedEnd):
    """The end `inner` towards stage `peer`, with its frames noted in the timeline."""

    def __init__(self, inner: ChannelEnd, peer: int, timeline: Timeline) -> None:
        super().__init__(inner)
        self._peer, self._timeline = peer, timeline

    def send(self, frame: Frame) -> None:
        start = time.monotonic()
        with self._timeline.slice("encode"):
            super().send(frame)
        if self._timeline.traces(frame):
            self._timeline.sent.append(self._note(frame, start, time.monotonic()))

    def _taken(self, frame: Frame) -> None:
        if self._timeline.traces(frame):
            now = time.monotonic()
            here = self.arrived_at
            self._timeline.received.append(self._note(frame, now if here is None else here, now))

    def _note(self, frame: Frame, start: float, end: float) -> FrameNote:
        size = bytes_of(frame.tensors)
        return FrameNote(self._peer, frame.sequence, frame.kind.name, frame.step, start, end, size)
