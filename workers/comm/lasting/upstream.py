"""The receiving end of an edge whose previous stage may be lost, and started again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from dni.errors import PeerTimeout, WorkerLost
from workers.comm.frame import Frame, Kind
from workers.comm.lasting.downstream import NOTICE_S
from workers.comm.lasting.replaceable_end import ReplaceableEnd
from workers.comm.upstream import Upstream

log = logging.getLogger(__name__)


class LastingUpstream(Upstream):
    """An `Upstream` that waits while the previous stage is gone, and knows from the frames' steps what it has missed.

    The first training step after a gap begins a new sequence in every stream: its `reset` is set.

    Args:
        end: the link, which is replaced.
        timeout_s: longest wait for a new link.
        settings: those of `Upstream`.
    """

    def __init__(self, end: ReplaceableEnd, *, timeout_s: float, **settings: Any) -> None:
        super().__init__(end, timeout_s=timeout_s, **settings)
        self._link, self._longest_s = end, timeout_s
        self.newest = 0  #: the newest training step that was received, or that a checkpoint has
        self.missed = 0  #: training steps that did not come
        self.on_gap: Callable[[int], None] = lambda steps: None  #: called with the number of steps that did not come
        self._begins = False  # the next training step begins a sequence

    def receive(self) -> Frame:
        """As `Upstream.receive`; wait for a new link while there is none. Raises WorkerLost after too long a time."""
        while True:
            try:
                frame = super().receive()
            except PeerTimeout:
                raise
            except WorkerLost as lost:
                self._wait_for_link(lost)
            else:
                return self._after_gap(frame)

    def finish(self, frame: Frame, *reply: Any, **settings: Any) -> None:
        """As `Upstream.finish`; while there is no link, nobody needs the reply."""
        try:
            super().finish(frame, *reply, **settings)
        except PeerTimeout:
            raise
        except WorkerLost as lost:
            log.info("stage %d: no reply to %s of step %d: %s", self._stage, frame.kind.name, frame.step, lost)

    def figures(self) -> dict[str, Any]:
        return {"missed_steps": self.missed} if self.missed else {}

    def _wait_for_link(self, lost: WorkerLost) -> None:
        log.warning("stage %d: %s; it waits", self._stage, lost)
        start = time.monotonic()
        with self._clock.waiting(self._stage - 1):
            found = self._link.renew(NOTICE_S) or (self._link.announced and self._link.renew(self._longest_s))
        if not found:
            raise lost
        waited_s = time.monotonic() - start
        log.warning("stage %d: stage %d is back after %.1f s", self._stage, self._stage - 1, waited_s)
        self._received = self._finished = self._sent = 0

    def _after_gap(self, frame: Frame) -> Frame:
        step = frame.kind is Kind.STEP
        missed = frame.step - self.newest - step
        self.newest = frame.step
        if missed > 0:
            log.warning("stage %d, step %d: %d steps before it did not come", self._stage, frame.step, missed)
            self.missed += missed
            self._begins = True
            self.on_gap(missed)
        if step and self._begins:
            frame.tensors["reset"] = torch.ones_like(frame.tensors["reset"])
            self._begins = False
        return frame
