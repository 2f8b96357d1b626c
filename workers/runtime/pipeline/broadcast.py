"""Broadcast small messages from one stage to the others, in parallel with a training step."""

from __future__ import annotations

import torch
import torch.distributed as dist

from workers.runtime.pipeline.process_group import lost_neighbours

#: Numbers in a message.
SIZE = 2


class Broadcast:
    """Two numbers that stage `source` sends to all others once per step.

    In each step every stage calls `expect` at the start and `receive` at the end; the source calls `send` in between.
    """

    def __init__(self, source: int, tag: int) -> None:
        self.source, self.tag, self.is_source = source, tag, dist.get_rank() == source
        self._numbers = torch.zeros(SIZE, dtype=torch.float64)
        self._pending: list[tuple[int, dist.Work]] = []  # (peer, request); a dropped request never completes

    def expect(self) -> None:
        """Post the receive early: gloo delivers a message only once its receive is posted."""
        if not self.is_source:
            self._add(self.source, dist.irecv(self._numbers, self.source, tag=self.tag))

    def send(self, *numbers: float) -> None:
        """Send the numbers to all other stages."""
        self._numbers = torch.tensor(numbers, dtype=torch.float64)
        for rank in range(dist.get_world_size()):
            if rank != self.source:
                self._add(rank, dist.isend(self._numbers, rank, tag=self.tag))

    def receive(self) -> list[float]:
        """Wait for the message of this step, and return its numbers."""
        for rank, work in self._pending:
            with lost_neighbours(f"stage {rank}"):
                work.wait()
        self._pending = []
        return self._numbers.tolist()

    def _add(self, rank: int, work: dist.Work | None) -> None:
        assert work is not None, "every stage is in the group"
        self._pending.append((rank, work))


def barrier() -> None:
    """Wait until all stages have called this."""
    dist.all_reduce(torch.zeros(1))
