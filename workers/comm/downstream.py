"""The sending end of an edge: credit, and the targets that come back from the next stage."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from torch import Tensor

from dni.errors import DniError, FlowControlError, OutOfOrder, WireError, WorkerLost
from workers.comm.contents import TensorSpec
from workers.comm.edge import LINK_FAILED, Target, WaitTime, bytes_of, error_context
from workers.comm.frame import Frame, Kind
from workers.comm.roles import VALUE, value_in
from workers.comm.target_reader import TargetReader
from workers.comm.transports.base import ChannelEnd

log = logging.getLogger(__name__)

#: A late gradient is checked against the value of its step for this many times `window` steps.
_REMEMBERED = 16


class Downstream:
    """The edge from stage k to stage k+1, held by stage k.

    `piggybacked`: further tensors that a reply may have. `most_replies`: largest number of replies to one step.
    """

    def __init__(
        self,
        end: ChannelEnd,
        *,
        stage: int,
        window: int,
        clock: WaitTime,
        timeout_s: float | None,
        most_replies: int = 2,
        piggybacked: Mapping[str, TensorSpec] = MappingProxyType({}),
    ) -> None:
        self._end, self._clock, self._timeout_s = end, clock, timeout_s
        self._stage, self._window = stage, window
        self._most_targets = 2 * most_replies * window  # of frames in flight, and of those waited for with a lag
        self._sent = 0
        self.sent_bytes = 0  #: of all tensors sent
        self._done = 0
        self._replies = 0  # received
        self._unfinished: dict[int, int] = {}  # step -> sequence number of its STEP frame
        self._last_done = -1  # newest step whose STEP frame is finished
        self._targets: list[tuple[int, Target | WireError]] = []  # not yet yielded, in order of arrival
        self._exchanged: tuple[int, int] | None = None  # sequence number and step of the last exchanged frame
        self._exchange_reply: Target | WireError | None = None  # the reply to that frame
        self._strict = False  # raise malformed frames; False: drop them
        self._reader = TargetReader(_REMEMBERED * window, piggybacked)
        self.dropped: Counter[str] = Counter()  #: number of malformed targets, by the name of the error

    @property
    def in_flight(self) -> int:
        """Number of sent frames that the next stage has not finished, as far as is known."""
        return self._sent - self._done

    def figures(self) -> dict[str, Any]:
        """Return what was lost on this edge in the whole run, if anything was."""
        found = {"dropped_targets": dict(self.dropped), "reconnects": self._end.reconnects}
        return {name: figure for name, figure in found.items() if figure}

    def pending(self) -> int:
        """Return the number of received frames not yet processed plus targets not yet yielded."""
        return self._end.pending() + len(self._targets)

    def send(self, kind: Kind, step: int, tensors: dict[str, Tensor]) -> None:
        """Send a frame. Block while `window` frames are in flight, and buffer the targets that arrive meanwhile.

        Raises WorkerLost if the next stage is gone, PeerTimeout if it sends nothing for `timeout_s` seconds.
        """
        while self.in_flight >= self._window:
            self._receive(f"credit for {kind.name} of step {step}", "wait for credit")
        frame = Frame(kind, step, self._sent + 1, self._replies, self._stage, tensors)
        with error_context(f"stage {self._stage}, sending {kind.name} of step {step} to stage {self._stage + 1}"):
            self._end.send(frame)
        self._sent += 1
        self.sent_bytes += bytes_of(tensors)
        value = value_in(VALUE, tensors)
        if value is not None:
            self._reader.remember(kind, step, value)
        if kind is Kind.STEP:
            self._unfinished[step] = self._sent

    def targets(self, wait_for: int | None = None) -> Iterator[Target]:
        """Yield targets in order of arrival.

        With `wait_for=None`, yield the targets that have arrived; a malformed frame is logged and its target dropped.
        With a step, first wait until that step is finished, with or without a target; yield the targets of steps up to
        it, and raise the error of a malformed frame.

        Raises WorkerLost or PeerTimeout after it has yielded the targets that arrived.
        """
        self._strict = wait_for is not None
        if wait_for is None:
            return self._collect(math.inf, self._receive_all)
        awaited = f"the target of step {wait_for}"
        return self._collect(wait_for, lambda: self._receive_until(lambda: wait_for not in self._unfinished, awaited))

    def drain(self) -> Iterator[Target]:
        """Wait until every sent frame is finished and yield the remaining targets. Raises as the last `targets`."""
        awaited = "the end of all sent frames"
        return self._collect(math.inf, lambda: self._receive_until(lambda: not self.in_flight, awaited))

    def exchange(self, kind: Kind, step: int, tensors: dict[str, Tensor]) -> Tensor:
        """Send a frame whose gradient is not a training target; wait for that gradient and return it.

        Raises as `send`, the error of a malformed frame, or OutOfOrder for a reply without a gradient.
        """
        self.send(kind, step, tensors)
        self._exchanged, self._exchange_reply, self._strict = (self._sent, step), None, True
        self._receive_until(lambda: not self.in_flight, f"the reply to {kind.name} of step {step}")
        malformed = [item for _, item in self._targets if isinstance(item, WireError)]
        reply = malformed[0] if malformed else self._exchange_reply
        if isinstance(reply, WireError):
            raise reply
        if reply is None or reply.gradient is None:
            raise OutOfOrder(f"stage {self._stage}: {kind.name} of step {step} got a reply without a gradient")
        return reply.gradient

    def _collect(self, last: float, gather: Callable[[], None]) -> Iterator[Target]:
        """Run `gather`, yield the targets of steps up to `last`, then raise the error of `gather`, if any."""
        failure: DniError | None = None
        try:
            gather()
        except DniError as error:
            failure = error
        while places := [place for place, (step, _) in enumerate(self._targets) if step <= last]:
            step, item = self._targets.pop(places[0])
            if not isinstance(item, WireError):
                yield item
            elif self._strict:
                raise item
            else:
                self._drop(step, item)
        if failure is not None:
            raise failure

    def _drop(self, step: int, error: WireError) -> None:
        self.dropped[type(error).__name__] += 1
        log.warning("stage %d, step %d or later: target dropped: %s", self._stage, step, error)

    def _receive_until(self, complete: Callable[[], bool], awaited: str) -> None:
        """Receive until `complete()`, or until a malformed frame that must be raised has arrived."""
        while not complete() and not (self._strict and self._malformed()):
            self._receive(awaited)

    def _receive_all(self) -> None:
        try:
            while self._poll():
                pass
        except WorkerLost:
            if self.in_flight:  # otherwise no target is missing, and the next stage may have ended normally
                raise

    def _malformed(self) -> bool:
        return any(isinstance(item, WireError) for _, item in self._targets)

    def _receive(self, awaited: str, doing: str = "wait for data") -> None:
        """Wait for one frame from the next stage."""
        with self._in_operation(f"waiting for {awaited}"):
            with self._clock.waiting(self._stage + 1, doing):
                frame = self._end.receive(self._timeout_s)
            self._handle(frame)

    def _poll(self) -> bool:
        """Process one frame if one has arrived; return whether one had."""
        with self._in_operation("taking targets"):
            frame = self._end.poll()
            if frame is None:
                return False
            self._handle(frame)
        return True

    @contextmanager
    def _in_operation(self, operation: str) -> Iterator[None]:
        """Buffer the error of a malformed frame in its place, under the earliest step it may belong to."""
        try:
            with error_context(f"stage {self._stage}, {operation} from stage {self._stage + 1}"):
                yield
        except (OutOfOrder, *LINK_FAILED):
            raise
        except WireError as error:
            self._replies += 1
            self._buffer(self._last_done + 1, error)

    def _handle(self, frame: Frame) -> None:
        where = f"stage {self._stage}: {frame.kind.name} of step {frame.step} from stage {self._stage + 1}"
        if frame.kind not in (Kind.GRADIENT, Kind.DONE):
            raise OutOfOrder(f"{where} does not belong to the upstream direction; are the two stages swapped?")
        if frame.done_through > self._sent:
            raise OutOfOrder(f"{where} is done through frame {frame.done_through}; only {self._sent} were sent")
        self._replies = max(self._replies, frame.sequence)
        self._done = max(self._done, frame.done_through)
        if frame.kind is Kind.GRADIENT or frame.tensors:
            self._route(frame, self._reader.read(frame, where, exchange=self._of_exchange(frame)))
        finished = [step for step, sequence in self._unfinished.items() if sequence <= self._done]
        for step in finished:
            del self._unfinished[step]
            self._last_done = max(self._last_done, step)

    def _route(self, frame: Frame, item: Target | WireError) -> None:
        late = item.late if isinstance(item, Target) else "late" in frame.tensors
        if self._of_exchange(frame) and not late:
            self._exchange_reply = item
        else:
            self._buffer(frame.step, item)

    def _of_exchange(self, frame: Frame) -> bool:
        # the step as well: the first of two replies to the next frame has the same `done_through`
        return (frame.done_through, frame.step) == self._exchanged

    def _buffer(self, step: int, item: Target | WireError) -> None:
        if len(self._targets) >= self._most_targets:
            raise FlowControlError(
                f"stage {self._stage}, step {step}: {len(self._targets)} targets arrived and were not taken; "
                "call `targets` after every sent step"
            )
        self._targets.append((step, item))
