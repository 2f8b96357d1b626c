"""Tell the neighbours of a stage which stage it waits for."""

from __future__ import annotations

from collections.abc import Mapping

from workers.comm.blame import Blame
from workers.comm.edge import WaitTime
from workers.comm.transports.base import ChannelEnd


class Neighbours:
    """Tells every neighbour which stage this one waits for.

    Args:
        index: index of this stage.
        clock: knows which neighbour the stage waits for now.
        ends: channel ends, by the index of the stage at the other end.
    """

    def __init__(self, index: int, clock: WaitTime, ends: Mapping[int, ChannelEnd]) -> None:
        self._index, self._clock, self._ends = index, clock, ends
        for end in ends.values():
            end.set_blame_source(self.blame)

    def blame(self) -> Blame | None:
        """Return the stage that holds up this one, as far as is known; None: this stage is not waiting."""
        waited_for = self._clock.waited_for
        if waited_for is None:
            return None
        blame = self._ends[waited_for].blame()
        mutual = blame is not None and blame.stage == self._index  # the two wait for each other
        return Blame(waited_for, silent=False) if blame is None or mutual else blame
