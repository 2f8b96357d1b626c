"""All transports, including a user's own, and links over them."""

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

#: Handshakes of stages 1 and 0 of a run.
SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
CLIENT = replace(SERVER, stage=0)

#: Transports between processes.
BETWEEN_PROCESSES: dict[str, type[ProcessTransport]] = {"grpc": Grpc, "torch_distributed": TorchDistributed, "tcp": Tcp}

EVERY: dict[str, type[Transport]] = {"local": Local, **BETWEEN_PROCESSES}


def context(mine: Handshake, limit: int = 64, sockets: Path | None = None) -> LinkContext:
    """Return the context of a stage on the CPU that opens an end."""
    return LinkContext(mine, limit, torch.device("cpu"), sockets)


@contextmanager
def linked(transport: Transport) -> Iterator[tuple[ChannelEnd, ChannelEnd]]:
    """Yield the ends of a link between stages 0 and 1 in this process."""
    with closing(transport.edge(context(CLIENT), context(SERVER))) as edge:
        yield edge.downstream, edge.upstream


def free_address() -> str:
    """Return an address of this machine with a free port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


_CHILD = """
import sys
from dataclasses import replace
from tests.support.transports import BETWEEN_PROCESSES, SERVER, context
transport, mine = BETWEEN_PROCESSES[sys.argv[1]](), replace(SERVER, stage=int(sys.argv[3]))
listener = transport.listen("127.0.0.1:0", context(mine))
if sys.argv[2] == "alone":  # both ends, neither closed
    client = transport.connect(listener.address, context(replace(mine, stage=mine.stage - 1)))
    server = listener.accept(10)
    sys.exit(7)
print(listener.address, flush=True)
end = listener.accept(30)
sys.stdin.read()
"""


def child(transport: str, work: str, stage: int = 1) -> subprocess.Popen[str]:
    """Start a process that opens both ends of a link and exits with 7 ("alone"), or listens as a stage ("listen")."""
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, transport, work, str(stage)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def address_of(process: subprocess.Popen[str]) -> str:
    """Return the address at which a child listens."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0]
    return process.stdout.readline().strip()
