"""Order and credit on an edge, the same for every transport.

Downstream frames are numbered 1, 2, ... Every upstream frame has the number of the last downstream frame that its
sender has finished, and only this number returns credit. At most `window` frames are in flight. A stage that names the
step it waits for gets results that depend on the order of frames and calls only, not on timing.

`workers.comm.downstream` and `workers.comm.upstream` are the two ends of an edge. This module has their common parts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from dni.errors import FlowControlError, HandshakeRefused, WorkerLost
from dni.named_tensors import Value

#: The details of a block that has none.
NOTHING: Mapping[str, int] = MappingProxyType({})

#: Wire errors that end the link.
LINK_FAILED = (FlowControlError, HandshakeRefused)


class Loss(NamedTuple):
    """Loss of the last stage at one step; it travels upstream with the targets to the first stage."""

    step: int
    nats: float  #: loss in nats, summed over the window
    labels: int  #: number of labels that counted


class Target(NamedTuple):
    """Reply to one step: the target gradient of its output, if any, loss reports, and what rides along."""

    step: int
    gradient: Value | None
    losses: tuple[Loss, ...] = ()
    late: int = 0  #: the gradient belongs to `step` - `late`
    piggybacked: dict[str, Tensor] | None = None  #: further tensors, by their names in the frame

    @staticmethod
    def restored(step: int, gradient: Value | None, losses: Sequence[Sequence[Any]], *more: Any) -> Target:
        """Return a target from the items that it was saved as; earlier versions saved fewer."""
        return Target(step, gradient, tuple(Loss(*loss) for loss in losses), *more)


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of bytes of a frame's tensors, without its header."""
    return sum(tensor.nbytes for tensor in tensors.values())


class WaitTime:
    """Sums the seconds that a stage spends waiting. Its busy fraction is 1 - seconds / wall time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waited_for: int | None = None  #: index of the stage waited for now
        self._by_stage: dict[int, float] = {}

    @contextmanager
    def waiting(
        self, stage: int | None = None, doing: str = "wait for data", details: Mapping[str, int] = NOTHING
    ) -> Iterator[None]:
        """Count the time inside the block as waiting, for `stage` if given. A timeline shows `doing` and `details`."""
        start, self.waited_for = time.monotonic(), stage
        try:
            yield
        finally:
            waited = time.monotonic() - start
            self.seconds, self.waited_for = self.seconds + waited, None
            if stage is not None:
                self._by_stage[stage] = self._by_stage.get(stage, 0.0) + waited

    def take(self) -> dict[int, float]:
        """Return the seconds since the last call, by the stage waited for."""
        taken, self._by_stage = self._by_stage, {}
        return taken


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Prefix `WorkerLost` errors inside the block with the operation in progress."""
    try:
        yield
    except WorkerLost as error:
        raise type(error)(f"{where}: {error}") from error
