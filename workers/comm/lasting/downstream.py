"""The sending end of an edge whose next stage may be lost, and started again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dni.errors import PeerTimeout, WorkerLost
from workers.comm.downstream import Downstream
from workers.comm.frame import Kind
from workers.comm.lasting.replaceable_end import ReplaceableEnd

log = logging.getLogger(__name__)

#: Seconds in which the supervisor says that a lost stage is started again; if not, the loss ends this stage, too.
NOTICE_S = 10.0

Tensors = dict[str, Tensor]


class LastingDownstream(Downstream):
    """A `Downstream` that goes on while the next stage is gone: frames are dropped and counted, and targets missing.

    The new link begins with a STEP frame, numbered from 1, and at least one step is dropped before it. Later stages
    therefore know from the steps that something is missing. Frames of other kinds are passed over. END waits for the
    new link, and sends the CHECKPOINT frame before it that was passed over.

    Args:
        end: the link, which is replaced.
        timeout_s: longest wait for a new link.
        settings: those of `Downstream`.
    """

    def __init__(self, end: ReplaceableEnd, *, timeout_s: float, **settings: Any) -> None:
        super().__init__(end, timeout_s=timeout_s, **settings)
        self._link, self._longest_s = end, timeout_s
        self._lost: WorkerLost | None = None  # why there is no link
        self._lost_at = 0.0
        self._dropped_steps = 0  # of this loss
        self._unsaved: tuple[int, Tensors] | None = None  # the newest CHECKPOINT frame, if it was passed over
        self._passed_over: tuple[Kind, int] | None = None  # the newest frame of another kind that was dropped
        self._ending = False
        self.skipped = 0  #: steps that the next stage has not finished, because it was lost

    def send(self, kind: Kind, step: int, tensors: Tensors) -> None:
        """As `Downstream.send`; drop the frame while there is no link.

        Raises WorkerLost if the loss was not announced or the new link takes too long, or if END comes at once.
        """
        self._ending = kind is Kind.END
        if self._lost is not None:
            self._look_for_link(kind, step)
        if self._lost is None:
            with self._noticing():
                super().send(kind, step, tensors)
        if self._lost is not None:
            self._pass_over(kind, step, tensors)

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), **({"skipped_steps": self.skipped} if self.skipped else {})}

    def _receive(self, awaited: str, doing: str = "wait for data") -> None:
        with self._noticing():
            super()._receive(awaited, doing)

    def _poll(self) -> bool:
        found = False
        if self._lost is None:
            with self._noticing():
                found = super()._poll()
        return found

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Go on without a link if it is lost in the block. A neighbour that is merely silent is an error."""
        try:
            yield
        except PeerTimeout:
            raise
        except WorkerLost as lost:
            if self._ending:
                raise
            self._go_without(lost)

    def _go_without(self, lost: WorkerLost) -> None:
        if self._lost is not None:
            return
        log.warning("stage %d: %s; it goes on alone", self._stage, lost)
        self._lost, self._lost_at, self._dropped_steps = lost, time.monotonic(), 0
        self.skipped += len(self._unfinished)
        self._sent = self._done = self._replies = 0
        self._unfinished.clear()

    def _look_for_link(self, kind: Kind, step: int) -> None:
        """Continue on a new link if there is one; raise the loss after too long a time."""
        assert self._lost is not None
        left = self._lost_at + self._longest_s - time.monotonic()
        found = False
        if kind is Kind.END:
            found = self._dropped_steps > 0 and self._link.renew(left)
        elif kind is Kind.STEP and self._dropped_steps:
            found = self._link.renew()
        if found:
            self._begin_anew(kind)
        elif kind is Kind.END or left < 0 or (not self._link.announced and left < self._longest_s - NOTICE_S):
            raise self._lost

    def _begin_anew(self, kind: Kind) -> None:
        log.warning(
            "stage %d: stage %d is back after %.1f s and %d dropped steps", self._stage, self._stage + 1,
            time.monotonic() - self._lost_at, self._dropped_steps,
        )  # fmt: skip
        self._lost, unsaved, self._unsaved = None, self._unsaved, None
        if kind is Kind.END and unsaved is not None:
            super().send(Kind.CHECKPOINT, *unsaved)

    def _pass_over(self, kind: Kind, step: int, tensors: Tensors) -> None:
        if kind is Kind.STEP:
            self._dropped_steps += 1
            self.skipped += 1
            self._unsaved = None
            return
        if kind is Kind.CHECKPOINT:
            self._unsaved = step, tensors
        if (kind, step) != self._passed_over:  # a validation pass has many frames
            log.warning("stage %d: %s of step %d is passed over: no next stage", self._stage, kind.name, step)
        self._passed_over = kind, step
