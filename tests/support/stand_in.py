"""A gloo group that replaces an NCCL group on machines without GPUs."""

from __future__ import annotations

from torch import Tensor
from torch.distributed import Store, Work

from workers.comm.transports.torch_distributed.gloo import GlooPair


class GlooGroup:
    """Sends CPU tensors, with the interface of an NCCL group. `sent` has the sizes of sent tensors in bytes."""

    timeout_s = 10.0  # to join the peer

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
