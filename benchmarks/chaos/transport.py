"""gRPC links whose connections lead through proxies. Nothing else differs from `transport=grpc`."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.chaos.proxy import address_of
from workers.comm.transports.base import ChannelEnd, LinkContext
from workers.comm.transports.grpc.transport import Grpc


@dataclass
class Proxied(Grpc):
    """`transport=grpc`, through the proxies of a switchboard."""

    switchboard: str = ""  # HOST:PORT of the switchboard

    name: ClassVar[str] = "grpc"

    def connect(self, address: str, context: LinkContext) -> ChannelEnd:
        return super().connect(self._through(address, context.handshake.stage + 1), context)

    def _through(self, address: str, stage: int) -> str:
        """Tell the switchboard where a stage listens; return the address of its proxy."""
        with socket.create_connection(address_of(self.switchboard)) as line, line.makefile("rw") as file:
            file.write(json.dumps({"stage": stage, "listens": address}) + "\n")
            file.flush()
            return file.readline().strip()
