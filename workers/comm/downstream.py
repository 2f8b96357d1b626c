"""The edge from a stage to the next one: credit, and the targets that come back."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from dni.errors import DniError, FlowControlError, OutOfOrder, WireError, WorkerLost
from workers.comm.answers import Answers
from workers.comm.edge import LINK_FAILED, Target, WaitTime, error_context
from workers.comm.frame import Frame, Kind
from workers.comm.roles import VALUE, value_in
from workers.comm.transports.base import ChannelEnd

log = logging.getLogger(__name__)

#: Windows of steps for which a late gradient is held against the value that was sent.
_REMEMBERED = 16


class Downstream:
    """The edge from stage k to stage k+1, held by stage k."""

    def __init__(self, end: ChannelEnd, *, stage: int, window: int, clock: WaitTime, timeout_s: float | None) -> None:
        self._end, self._clock, self._timeout_s = end, clock, timeout_s
        self._stage, self._window = stage, window
        self._sent = 0
        self._done = 0
        self._flying: dict[int, int] = {}  # step -> sequence, of STEP frames that are not done
        self._last_done = -1  # newest step whose STEP frame is done
        self._arrived: list[tuple[int, Target | WireError]] = []  # not yet handed out, in order of arrival
        self._asked: int | None = None  # sequence of the last frame that was exchanged
        self._answer: Target | WireError | None = None  # the gradient of that frame
        self._strict = False  # whether a malformed frame is an error or a missing target
        self._answers = Answers(_REMEMBERED * window)
        self.dropped: Counter[str] = Counter()  #: targets that were malformed, by the error that says how

    @property
    def in_flight(self) -> int:
        """Frames sent that are not known to be done."""
        return self._sent - self._done

    def pending(self) -> int:
        """Frames received and not yet looked at, and targets not yet handed out."""
        return self._end.pending() + len(self._arrived)

    def send(self, kind: Kind, step: int, tensors: dict[str, Tensor]) -> None:
        """Send a frame; blocks while `window` frames are in flight, keeping targets that arrive meanwhile.

        Raises WorkerLost if the next stage is gone, PeerTimeout if it is silent for `timeout_s`.
        """
        while self.in_flight >= self._window:
            self._receive(f"credit for {kind.name} of step {step}")
        frame = Frame(kind, step, sequence=self._sent + 1, stage=self._stage, tensors=tensors)
        with error_context(f"stage {self._stage}, sending {kind.name} of step {step} to stage {self._stage + 1}"):
            self._end.send(frame)
        self._sent += 1
        value = value_in(VALUE, tensors)
        if value is not None:
            self._answers.remember(kind, step, value)
        if kind is Kind.STEP:
            self._flying[step] = self._sent

    def targets(self, wait_for: int | None = None) -> Iterator[Target]:
        """Targets in order of arrival.

        None: those that are here. A step: waits until its target, or news that there will be none, is here;
        yields the targets of steps up to and including it. A malformed frame is an error then, otherwise its
        target is missing, which is logged. Raises WorkerLost or PeerTimeout after handing out what came.
        """
        self._strict = wait_for is not None
        if wait_for is None:
            return self._collect(math.inf, self._gather_all)
        what = f"the target of step {wait_for}"
        return self._collect(wait_for, lambda: self._gather(lambda: wait_for not in self._flying, what))

    def drain(self) -> Iterator[Target]:
        """Wait until all that was sent is done; yields the targets left. Errors: as the last `targets`."""
        what = "the end of all that was sent"
        return self._collect(math.inf, lambda: self._gather(lambda: not self.in_flight, what))

    def exchange(self, kind: Kind, step: int, tensors: dict[str, Tensor]) -> Tensor:
        """Send a frame whose gradient is nobody's target, and wait for that gradient.

        Errors: as `send`, and that of a malformed frame; OutOfOrder if the answer is no gradient.
        """
        self.send(kind, step, tensors)
        self._asked, self._answer, self._strict = self._sent, None, True
        self._gather(lambda: not self.in_flight, f"the answer to {kind.name} of step {step}")
        malformed = [item for _, item in self._arrived if isinstance(item, WireError)]
        answer = malformed[0] if malformed else self._answer
        if isinstance(answer, WireError):
            raise answer
        if answer is None or answer.gradient is None:
            raise OutOfOrder(f"stage {self._stage}: {kind.name} of step {step} was answered without a gradient")
        return answer.gradient

    def _collect(self, last: float, gather: Callable[[], None]) -> Iterator[Target]:
        """Gather, hand out the targets of steps up to `last`, then raise what went wrong while gathering."""
        failure: DniError | None = None
        try:
            gather()
        except DniError as error:
            failure = error
        while due := [place for place, (step, _) in enumerate(self._arrived) if step <= last]:
            step, item = self._arrived.pop(due[0])
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

    def _gather(self, complete: Callable[[], bool], what: str) -> None:
        """Receive until `complete`, or until a malformed frame that must be raised has arrived."""
        while not complete() and not (self._strict and self._malformed()):
            self._receive(what)

    def _gather_all(self) -> None:
        try:
            while self._poll():
                pass
        except WorkerLost:
            if self.in_flight:  # otherwise no target is missing: the next stage may have ended
                raise

    def _malformed(self) -> bool:
        return any(isinstance(item, WireError) for _, item in self._arrived)

    def _receive(self, what: str) -> None:
        """Wait for one frame from the next stage."""
        with self._watching(f"waiting for {what}"):
            with self._clock.waiting(self._stage + 1):
                frame = self._end.receive(self._timeout_s)
            self._note(frame)

    def _poll(self) -> bool:
        """Take one frame if one is here; whether one was."""
        with self._watching("taking targets"):
            frame = self._end.poll()
            if frame is None:
                return False
            self._note(frame)
        return True

    @contextmanager
    def _watching(self, doing: str) -> Iterator[None]:
        """A malformed frame is kept in its place, under the first step that it can have been about."""
        try:
            with error_context(f"stage {self._stage}, {doing} from stage {self._stage + 1}"):
                yield
        except (OutOfOrder, *LINK_FAILED):
            raise
        except WireError as error:
            self._keep(self._last_done + 1, error)

    def _note(self, frame: Frame) -> None:
        where = f"stage {self._stage}: {frame.kind.name} of step {frame.step} from stage {self._stage + 1}"
        if frame.kind not in (Kind.GRADIENT, Kind.DONE):
            raise OutOfOrder(f"{where} does not go upstream; is that stage connected the right way round?")
        if frame.done_through > self._sent:
            raise OutOfOrder(f"{where} is done through frame {frame.done_through}; only {self._sent} were sent")
        self._done = max(self._done, frame.done_through)
        if frame.kind is Kind.GRADIENT or frame.tensors:
            self._take(frame, self._answers.read(frame, where, asked=frame.done_through == self._asked))
        for over in [step for step, sequence in self._flying.items() if sequence <= self._done]:
            del self._flying[over]
            self._last_done = max(self._last_done, over)

    def _take(self, frame: Frame, item: Target | WireError) -> None:
        late = item.late if isinstance(item, Target) else "late" in frame.tensors
        if frame.done_through == self._asked and not late:
            self._answer = item
        else:
            self._keep(frame.step, item)

    def _keep(self, step: int, item: Target | WireError) -> None:
        if len(self._arrived) >= 4 * self._window:  # in flight, waited for with a lag, each of them twice
            raise FlowControlError(
                f"stage {self._stage}, step {step}: {len(self._arrived)} targets arrived and were not taken; "
                "take targets after every step that was sent"
            )
        self._arrived.append((step, item))
