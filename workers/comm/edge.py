"""Order and credit on an edge: the same rules for every transport.

Frames that go downstream are numbered 1, 2, ...; every frame that goes upstream says through which number the
receiver is done. That number alone returns credit: at most `window` frames are in flight. What a stage gets
depends on the order of frames and of its own calls, never on their time, if it names the step it waits for.

`workers.comm.downstream` and `workers.comm.upstream` are the two ends of an edge; here is what both need.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from dni.errors import FlowControlError, HandshakeRefused, WorkerLost
from dni.named_tensors import Value

#: Wire errors after which nothing follows.
LINK_FAILED = (FlowControlError, HandshakeRefused)


class Loss(NamedTuple):
    """What the last stage measured at a step; travels upstream with the targets, to the source of the data."""

    step: int
    nats: float  #: summed over the window
    labels: int  #: how many counted


class Target(NamedTuple):
    """What came back for a step: the target gradient of its output, unless there is none, and news."""

    step: int
    gradient: Value | None
    losses: tuple[Loss, ...] = ()
    late: int = 0  #: the gradient is that of `step` - late


class WaitTime:
    """Adds up the seconds a stage spends waiting; its busy fraction is 1 - seconds / wall."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waited_for: int | None = None  #: the stage that is waited for now

    @contextmanager
    def waiting(self, stage: int | None = None) -> Iterator[None]:
        """Count the time inside the block, in which `stage` is waited for."""
        start, self.waited_for = time.monotonic(), stage
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start
            self.waited_for = None


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Whoever is lost meanwhile is named with what was being done."""
    try:
        yield
    except WorkerLost as error:
        raise type(error)(f"{where}: {error}") from error
