"""The groups that the two ends of a link make, and what they must agree on before."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch.distributed import Store  # type: ignore[attr-defined]  # it has one

from dni.errors import HandshakeRefused
from workers.comm.transports.torch_distributed.device_pair import DevicePair, MakeGroup
from workers.comm.transports.torch_distributed.gloo import GlooPair

#: What carries messages, and what carries tensors from device to device, if anything does.
Pairs: TypeAlias = tuple[GlooPair, DevicePair | None]


class Groups(NamedTuple):
    """What one end makes groups by, and for."""

    device_group: MakeGroup | None
    device: torch.device

    @property
    def route(self) -> str:
        """By what this end sends what stages compute with, and from which GPU."""
        if self.device_group is None:
            return "gloo"
        return f"nccl {torch.cuda.get_device_properties(self.device).uuid if self.device.type == 'cuda' else ''}"

    def make(self, store: Store, rank: int, host: str, timeout_s: float) -> Pairs:
        """Meet the other side in a store of these two; `host` is this side's address.

        Raises RuntimeError if it does not come.
        """
        pair = GlooPair(store, "group", rank, host, timeout_s)
        if self.device_group is None:
            return pair, None
        try:
            return pair, DevicePair(self.device_group, store, rank, host, self.device, timeout_s)
        except RuntimeError:
            pair.end()
            raise


def agree_on_route(client: str, server: str, stage: int) -> None:
    """Raises HandshakeRefused unless stage - 1, the client, and `stage` send alike, and from GPUs of their own."""
    (theirs, _, their_gpu), (mine, _, my_gpu) = client.partition(" "), server.partition(" ")
    if theirs != mine:
        raise HandshakeRefused(
            f"handshake refused: transport.backend is {theirs!r} at stage {stage - 1} and {mine!r} at stage {stage}: "
            "start all stages with the same configuration"
        )
    if my_gpu and their_gpu == my_gpu:
        raise HandshakeRefused(
            f"handshake refused: stages {stage - 1} and {stage} are both on the GPU {my_gpu}, and NCCL needs one for "
            "each: name others in devices, or set transport.backend=gloo"
        )
