"""Transports of every kind, also a user's own, and the ends of their links."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from tests.plugin.tcp import Tcp
from workers.comm.frame import PROTOCOL_VERSION, Handshake
from workers.comm.transports.base import ChannelEnd, LinkContext, Transport
from workers.comm.transports.grpc.transport import Grpc
from workers.comm.transports.local import Local
from workers.comm.transports.process_link import ProcessTransport
from workers.comm.transports.torch_distributed.transport import TorchDistributed

#: What stages 1 and 0 of a run say of themselves.
SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
CLIENT = replace(SERVER, stage=0)

#: Those that join processes.
BETWEEN_PROCESSES: dict[str, type[ProcessTransport]] = {"grpc": Grpc, "torch_distributed": TorchDistributed, "tcp": Tcp}

EVERY: dict[str, type[Transport]] = {"local": Local, **BETWEEN_PROCESSES}


def context(mine: Handshake, limit: int = 64, sockets: Path | None = None) -> LinkContext:
    """The stage that opens an end, on the CPU."""
    return LinkContext(mine, limit, torch.device("cpu"), sockets)


@contextmanager
def linked(transport: Transport) -> Iterator[tuple[ChannelEnd, ChannelEnd]]:
    """The ends of a link between stages 0 and 1 of this process."""
    with closing(transport.edge(context(CLIENT), context(SERVER))) as edge:
        yield edge.downstream, edge.upstream


def free_address() -> str:
    """An address of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


_CHILD = """
import sys
from tests.support.transports import BETWEEN_PROCESSES, CLIENT, SERVER, context
transport = BETWEEN_PROCESSES[sys.argv[1]]()
listener = transport.listen("127.0.0.1:0", context(SERVER))
if sys.argv[2] == "alone":  # both ends, neither closed
    client = transport.connect(listener.address, context(CLIENT))
    server = listener.accept(10)
    sys.exit(7)
print(listener.address, flush=True)
end = listener.accept(30)
sys.stdin.read()
"""


def child(transport: str, work: str) -> subprocess.Popen[str]:
    """A process that makes both ends of a link and exits with 7 ("alone"), or listens as stage 1 ("listen")."""
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, transport, work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def address_of(process: subprocess.Popen[str]) -> str:
    """Where a child listens."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0]
    return process.stdout.readline().strip()
