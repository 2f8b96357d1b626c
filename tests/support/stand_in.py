"""A gloo group in the place of one by NCCL, where there are no GPUs."""

from __future__ import annotations

from torch import Tensor
from torch.distributed import Store, Work

from workers.comm.transports.torch_distributed.gloo import GlooPair


class GlooGroup:
    """Sends what is in the CPU's memory, and does all else as a group by NCCL; `sent` are the sizes of what it sent."""

    timeout_s = 10.0  # to meet

    def __init__(self, store: Store, rank: int, host: str) -> None:
        self._pair = GlooPair(store, "group", rank, host, self.timeout_s)
        self.sent: list[int] = []

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> Work:
        self.sent.append(tensors[0].nbytes)
        return self._pair.send(tensors[0], tag)

    def recv(self, tensors: list[Tensor], peer: int, tag: int, /) -> Work:
        return self._pair.recv(tensors[0], tag)

    def abort(self) -> None:
        self._pair.end()
