"""Small messages from one stage to all others, under way while a step is."""

from __future__ import annotations

import torch
import torch.distributed as dist

from workers.runtime.pipeline.process_group import lost_neighbours

#: Numbers in a notice.
SIZE = 2


class Broadcast:
    """Two numbers that stage `source` says once per step. Nobody waits for them before the step is over.

    Every step is `expect` at its start, `tell` by the source at any time, and `heard` at its end, by all.
    """

    def __init__(self, source: int, tag: int) -> None:
        self.source, self.tag, self.mine = source, tag, dist.get_rank() == source
        self._numbers = torch.zeros(SIZE, dtype=torch.float64)
        self._under_way: list[tuple[int, dist.Work]] = []  # with whom; a message whose work is dropped never arrives

    def expect(self) -> None:
        """Be ready for it: who is ready before it is sent need not be asked first."""
        if not self.mine:
            self._add(self.source, dist.irecv(self._numbers, self.source, tag=self.tag))

    def tell(self, *numbers: float) -> None:
        """Send it to all others."""
        self._numbers = torch.tensor(numbers, dtype=torch.float64)
        for rank in range(dist.get_world_size()):
            if rank != self.source:
                self._add(rank, dist.isend(self._numbers, rank, tag=self.tag))

    def heard(self) -> list[float]:
        """What it says, once it is here."""
        for rank, work in self._under_way:
            with lost_neighbours(f"stage {rank}"):
                work.wait()
        self._under_way = []
        return self._numbers.tolist()

    def _add(self, rank: int, work: dist.Work | None) -> None:
        assert work is not None, "every stage is in the group"
        self._under_way.append((rank, work))


def barrier() -> None:
    """Wait until all stages have come here."""
    dist.all_reduce(torch.zeros(1))
