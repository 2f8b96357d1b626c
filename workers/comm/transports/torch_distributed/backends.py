"""Make the process groups of a link, after the two ends have agreed on a backend."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch.distributed import Store  # type: ignore[attr-defined]  # it has one

from dni.errors import HandshakeRefused
from workers.comm.transports.torch_distributed.device_pair import DevicePair, MakeGroup
from workers.comm.transports.torch_distributed.gloo import GlooPair

#: The pair for messages, and the pair for tensors from device to device, if any.
Pairs: TypeAlias = tuple[GlooPair, DevicePair | None]


class Groups(NamedTuple):
    """The backend and device for which one end makes groups."""

    device_group: MakeGroup | None
    device: torch.device

    @property
    def route(self) -> str:
        """The backend that carries activations and gradients, and the GPU of this end."""
        if self.device_group is None:
            return "gloo"
        return f"nccl {torch.cuda.get_device_properties(self.device).uuid if self.device.type == 'cuda' else ''}"

    def make(self, store: Store, rank: int, host: str, timeout_s: float) -> Pairs:
        """Make the groups with the peer, through a store of the two; `host` is the address of this end.

        Raises RuntimeError if the peer does not join.
        """
        pair = GlooPair(store, "group", rank, host, timeout_s)
        if self.device_group is None:
            return pair, None
        try:
            return pair, DevicePair(self.device_group, store, rank, host, self.device, timeout_s)
        except RuntimeError:
            pair.end()
            raise


def agree_on_backend(client: str, server: str, stage: int) -> None:
    """Raise HandshakeRefused unless `stage` - 1, the client, has the same backend as `stage` and another GPU."""
    (client_backend, _, client_gpu), (server_backend, _, server_gpu) = client.partition(" "), server.partition(" ")
    if client_backend != server_backend:
        raise HandshakeRefused(
            f"handshake refused: transport.backend is {client_backend!r} at stage {stage - 1} and {server_backend!r} "
            f"at stage {stage}: start all stages with the same configuration"
        )
    if server_gpu and client_gpu == server_gpu:
        raise HandshakeRefused(
            f"handshake refused: stages {stage - 1} and {stage} are both on the GPU {server_gpu}, and NCCL needs one "
            "for each: name others in devices, or set transport.backend=gloo"
        )
