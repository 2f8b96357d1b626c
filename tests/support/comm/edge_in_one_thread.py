"""Both sides of an edge in one thread, whose answers can be checked, lost, late or damaged."""

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
    """Both sides of an edge between stages 1 and 2, in one thread; `timeout_s` ends what would block."""

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
        """A malformed frame arrives from downstream."""
        assert isinstance(self.a, LocalEnd)
        self.a._inbox.put(TruncatedFrame("malformed frame from stage 2"))

    def targets(self, wait_for: int | None = None) -> list[int]:
        return checked(self.down.targets(wait_for))


def checked(targets: Iterable[Target]) -> list[int]:
    """The steps, each with its own gradient."""
    found = list(targets)
    gradients = [None if target.gradient is None else target.gradient.item() for target in found]
    assert gradients == [10.0 * target.step for target in found]
    return [target.step for target in found]
