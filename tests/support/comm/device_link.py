"""A link between stages 0 and 1 with a device pair."""

from __future__ import annotations

from dataclasses import replace

from workers.comm.frame import PROTOCOL_VERSION, Handshake
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.torch_distributed.device_pair import MakeGroup
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect

SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
CLIENT = replace(SERVER, stage=0)
Linked = tuple[ChannelEnd, ChannelEnd, TorchDistributedListener]


def linked(client: MakeGroup, server: MakeGroup, timeout_s: float = 5) -> Linked:
    """Open a link with these groups; return the ends of client and server, and the listener."""
    settings = LinkSettings(timeout_s=timeout_s)
    listener = TorchDistributedListener(handshake=SERVER, settings=settings, device_group=server)
    end = torch_distributed_connect(listener.address, CLIENT, settings, device_group=client)
    return end, listener.accept(5), listener


def close(*closing: ChannelEnd | TorchDistributedListener) -> None:
    for each in closing:
        each.close()
