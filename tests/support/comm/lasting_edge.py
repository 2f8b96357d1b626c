"""Both ends of an edge whose link is lost and replaced, in one thread."""

from __future__ import annotations

import torch

from workers.comm.edge import WaitTime
from workers.comm.frame import Frame, Kind
from workers.comm.lasting.downstream import LastingDownstream
from workers.comm.lasting.replaceable_end import ReplaceableEnd
from workers.comm.lasting.upstream import LastingUpstream
from workers.comm.transports.local import local_channel


class LastingEdge:
    """The edge between stages 1 and 2, with a link; a stage waits for the other at most `timeout_s`."""

    def __init__(self, window: int = 4, timeout_s: float = 30.0) -> None:
        self.window, self.timeout_s = window, timeout_s
        self.first: list[int] = []
        self._before(), self._after(newest=0)
        self.link()

    def _before(self) -> None:
        self.left = ReplaceableEnd("stage 2")
        self.down = LastingDownstream(
            self.left, stage=1, window=self.window, clock=WaitTime(), timeout_s=self.timeout_s
        )

    def _after(self, newest: int) -> None:
        self.gaps: list[int] = []
        self.right = ReplaceableEnd("stage 1", self.first.append)
        self.up = LastingUpstream(self.right, stage=2, clock=WaitTime(), timeout_s=self.timeout_s)
        self.up.newest, self.up.on_gap = newest, self.gaps.append

    def link(self) -> None:
        """Offer both stages the ends of a new link."""
        for end, new in zip((self.left, self.right), local_channel(64), strict=True):
            end.offer(new)
        if not self.left.announced:
            self.left.renew()
        if not self.right.announced:
            self.right.renew()

    def lose_stage_2(self) -> None:
        """End the process of stage 2: its end is gone, and stage 1 is told."""
        self.left.give_up()

    def restart_stage_2(self, newest: int) -> None:
        """Start stage 2 again, from a checkpoint of step `newest`."""
        self._after(newest)
        self.link()

    def lose_stage_1(self) -> None:
        """End the process of stage 1: stage 2 is told."""
        self.right.give_up()

    def restart_stage_1(self) -> None:
        """Start stage 1 again."""
        self._before()
        self.link()

    def send(self, *steps: int, kind: Kind = Kind.STEP) -> None:
        for step in steps:
            tensors = {"value": torch.tensor([float(step)]), "reset": torch.tensor([False, True])}
            self.down.send(kind, step, tensors if kind in (Kind.STEP, Kind.EVALUATE) else {})

    def answer(self) -> Frame:
        """Let stage 2 take one frame and reply to it."""
        frame = self.up.receive()
        self.up.finish(frame, torch.tensor([10.0 * frame.step]) if frame.kind is Kind.STEP else None)
        return frame
