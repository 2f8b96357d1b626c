"""Both ends of an edge in one thread, with replies that can be checked, lost, late or malformed."""

from collections.abc import Iterable

import torch

from dni.errors import TruncatedFrame
from tests.support.faulty import Fault, FaultyEnd
from workers.comm.downstream import Downstream
from workers.comm.edge import Target, WaitTime
from workers.comm.frame import Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.local import LocalEnd, local_channel
from workers.comm.upstream import Upstream

SHORT = 0.05


class Edge:
    """Both ends of an edge between stages 1 and 2, in one thread; calls that would block end after `timeout_s`."""

    def __init__(self, window: int = 4, faults: Iterable[Fault] = (), timeout_s: float = SHORT) -> None:
        self.a, self.b = local_channel(64)
        self.clock = WaitTime()
        self.down = Downstream(self.a, stage=1, window=window, clock=self.clock, timeout_s=timeout_s)
        back: ChannelEnd = FaultyEnd(self.b, faults)
        self.up = Upstream(back, stage=2, clock=WaitTime(), timeout_s=timeout_s)

    def send(self, *steps: int, kind: Kind = Kind.STEP) -> None:
        for step in steps:
            self.down.send(kind, step, {"value": torch.tensor([float(step)])})

    def answer(self, count: int = 1, gradient: bool = True) -> None:
        for _ in range(count):
            frame = self.up.receive()
            self.up.finish(frame, torch.tensor([10.0 * frame.step]) if gradient else None)

    def damage(self) -> None:
        """Deliver a malformed frame from downstream."""
        assert isinstance(self.a, LocalEnd)
        self.a._inbox.put(TruncatedFrame("malformed frame from stage 2"))

    def targets(self, wait_for: int | None = None) -> list[int]:
        return checked(self.down.targets(wait_for))


def checked(targets: Iterable[Target]) -> list[int]:
    """Return the steps of targets, after checking that each has the gradient of its step."""
    received = list(targets)
    gradients = [None if target.gradient is None else target.gradient.item() for target in received]
    assert gradients == [10.0 * target.step for target in received]
    return [target.step for target in received]
