"""Ten thousand connections at the door of a listener."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.transports import CLIENT, SERVER
from tests.workers.comm.transports.test_grpc_doors import SETTINGS, assert_serves, assert_works
from workers.comm.transports.grpc import options
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect

_PROCESSES, _EACH = 10, 1000  # below the usual limit of descriptors, 1024
_MOST_OPEN = 64 + 8  # connections that a listener serves, and descriptors of gRPC's own
_MOST_BYTES = 200 * 2**20

_FLOOD = """
import socket, sys
links = [socket.create_connection((sys.argv[1], int(sys.argv[2])), 120) for _ in range(int(sys.argv[3]))]
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def _flood(address: str) -> Iterator[None]:
    """Keep the client's half of so many connections open inside the block."""
    command = [sys.executable, "-c", _FLOOD, *address.split(":"), str(_EACH)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ExitStack() as stack:
        clients = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(_PROCESSES)]
        for client in clients:
            assert client.stdin is not None
            stack.callback(client.stdin.close)
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == b"open\n"
        yield


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors as Linux lists them")
def test_10000_connections_take_the_room_of_64_and_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "SILENT_S", 0.5)
    process = psutil.Process()
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        before, memory = _descriptors(), process.memory_info().rss
        with _flood(listener.address):
            assert _descriptors() - before <= _MOST_OPEN + 2 * _PROCESSES  # the pipes
            assert process.memory_info().rss - memory < _MOST_BYTES
            assert_serves(listener)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_10000_connections_do_not_disturb_a_link() -> None:
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        client = grpc_connect(listener.address, CLIENT, SETTINGS)
        server = listener.accept(10)
        with _flood(listener.address):
            assert_works(client, server)
        assert_works(client, server)
        client.close()
        server.close()
