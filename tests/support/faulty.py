"""Faults at a given place, for tests: what is sent is delayed, dropped or sent twice."""

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
    """What happens to every frame of `kind` and `step`."""

    kind: Kind
    step: int
    action: Literal["delay", "drop", "duplicate"]
    sends: int = 1  #: a delayed frame goes out after this many later sends, or at `close`


class FaultyEnd(ChannelEnd):
    """A channel end whose sending side has faults; everything else is passed through.

    Delays count sends instead of seconds, so that a test gives the same result at any speed.
    """

    def __init__(self, end: ChannelEnd, faults: Iterable[Fault]) -> None:
        self._end = end
        self._faults = {(fault.kind, fault.step): fault for fault in faults}
        self._held: list[tuple[int, Frame]] = []  # (sends still to come before it goes out, frame)

    def send(self, frame: Frame) -> None:
        fault = self._faults.get((frame.kind, frame.step))
        copies = {None: 1, "drop": 0, "delay": 0, "duplicate": 2}[fault.action if fault else None]
        for _ in range(copies):
            self._end.send(frame)
        self._held = [(left - 1, held) for left, held in self._held]
        self._release()
        if fault is not None and fault.action == "delay":
            self._held.append((fault.sends, clone(frame)))

    def receive(self, timeout: float | None) -> Frame:
        return self._end.receive(timeout)

    def poll(self) -> Frame | None:
        return self._end.poll()

    def pending(self) -> int:
        return self._end.pending()

    def close(self) -> None:
        self._held = [(0, held) for _, held in self._held]
        with suppress(WorkerLost):  # nobody left to send to
            self._release()
        self._end.close()

    def _release(self) -> None:
        for left, held in self._held:
            if left <= 0:
                self._end.send(held)
        self._held = [(left, held) for left, held in self._held if left > 0]
