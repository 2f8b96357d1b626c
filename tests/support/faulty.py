"""Inject faults for tests: chosen frames are delayed, dropped or sent twice."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from dni.errors import WorkerLost
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.local import clone


@dataclass(frozen=True)
class Fault:
    """A fault of every frame of `kind` and `step`."""

    kind: Kind
    step: int
    action: Literal["delay", "drop", "duplicate"]
    sends: int = 1  #: a delayed frame is sent after this many later sends, or at `close`


class FaultyEnd(ChannelEnd):
    """A channel end with faults in `send`; other calls are passed through.

    Delays are counted in sends, not seconds, so results do not depend on speed.
    """

    def __init__(self, end: ChannelEnd, faults: Iterable[Fault]) -> None:
        self._end = end
        self._faults = {(fault.kind, fault.step): fault for fault in faults}
        self._delayed: list[tuple[int, Frame]] = []  # (remaining sends until it is sent, frame)

    def send(self, frame: Frame) -> None:
        fault = self._faults.get((frame.kind, frame.step))
        copies = {None: 1, "drop": 0, "delay": 0, "duplicate": 2}[fault.action if fault else None]
        for _ in range(copies):
            self._end.send(frame)
        self._delayed = [(remaining - 1, delayed) for remaining, delayed in self._delayed]
        self._release()
        if fault is not None and fault.action == "delay":
            self._delayed.append((fault.sends, clone(frame)))

    def receive(self, timeout: float | None) -> Frame:
        return self._end.receive(timeout)

    def poll(self) -> Frame | None:
        return self._end.poll()

    def pending(self) -> int:
        return self._end.pending()

    def close(self) -> None:
        self._delayed = [(0, delayed) for _, delayed in self._delayed]
        with suppress(WorkerLost):  # the peer is gone
            self._release()
        self._end.close()

    def _release(self) -> None:
        for remaining, delayed in self._delayed:
            if remaining <= 0:
                self._end.send(delayed)
        self._delayed = [(remaining, delayed) for remaining, delayed in self._delayed if remaining > 0]
