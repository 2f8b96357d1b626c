"""The links of one stage to its neighbours, which are told whom it waits for."""

from __future__ import annotations

from collections.abc import Mapping

from workers.comm.blame import Blame
from workers.comm.edge import WaitTime
from workers.comm.transports.base import ChannelEnd


class Neighbours:
    """Tells every neighbour whom this stage waits for.

    Args:
        index: this stage.
        clock: knows the neighbour that the stage waits for now.
        ends: by the number of the stage at the other end.
    """

    def __init__(self, index: int, clock: WaitTime, ends: Mapping[int, ChannelEnd]) -> None:
        self._index, self._clock, self._ends = index, clock, ends
        for end in ends.values():
            end.tell(self.blamed)

    def blamed(self) -> Blame | None:
        """The stage that holds up this one, as far as is known; None: it is at work."""
        waited_for = self._clock.waited_for
        if waited_for is None:
            return None
        blame = self._ends[waited_for].blamed()
        in_turn = blame is not None and blame.stage == self._index
        return Blame(waited_for, silent=False) if blame is None or in_turn else blame
