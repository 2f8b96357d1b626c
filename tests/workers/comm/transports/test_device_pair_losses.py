"""Loss of a peer, a process or a group with a device pair."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore, Store

from dni.errors import WorkerLost
from tests.support.comm.device_link import CLIENT, Linked, close, linked
from tests.support.stand_in import GlooGroup
from workers.comm.frame import Frame, Kind
from workers.comm.transports.torch_distributed.device_pair import DevicePair
from workers.comm.transports.torch_distributed.end import TorchDistributedEnd
from workers.comm.transports.torch_distributed.link import torch_distributed_connect

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Stuck(GlooGroup):
    """After the warm-up, no operation finishes. Aborted operations look finished, as with NCCL."""

    stuck_operations = threading.Semaphore(0)  # released by every stuck operation

    def __init__(self, store: Store, rank: int, host: str) -> None:
        super().__init__(store, rank, host)
        self.aborted = threading.Event()

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> Any:
        return super().send(tensors, peer, tag) if tensors[0].nbytes == 1 else self._stick()

    def recv(self, tensors: list[Tensor], peer: int, tag: int, /) -> Any:
        return super().recv(tensors, peer, tag) if tensors[0].nbytes == 1 else self._stick()

    def abort(self) -> None:
        self.aborted.set()
        super().abort()

    def _stick(self) -> StuckWork:
        self.stuck_operations.release()
        return StuckWork(self.aborted)


class StuckWork:
    def __init__(self, aborted: threading.Event) -> None:
        self._aborted = aborted

    def wait(self, timeout: timedelta) -> bool:
        assert self._aborted.wait(20)
        return True


def stuck_link(timeout_s: float = 5) -> Linked:
    """Return a link with a frame in flight whose tensor never arrives."""
    client, server, listener = linked(Stuck, Stuck, timeout_s)
    client.send(Frame(Kind.STEP, 7, tensors={"value": torch.ones(1000)}))
    for _ in range(2):
        assert Stuck.stuck_operations.acquire(timeout=5)  # of the sender and of the receiver
    return client, server, listener


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_peer_wakes_the_waiting_threads_and_an_incomplete_frame_is_dropped(lost: int) -> None:
    *ends, listener = stuck_link()
    closed_end, other_end = ends[lost], ends[1 - lost]
    assert isinstance(closed_end, TorchDistributedEnd)
    start = time.monotonic()
    closed_end.abandon()
    with pytest.raises(WorkerLost, match="is gone"):
        other_end.receive(5)
    with pytest.raises(WorkerLost):
        other_end.send(Frame(Kind.STEP, 8))
    close(other_end, listener)
    assert time.monotonic() - start < 4  # less than a timeout


def test_close_gives_up_after_its_timeout_if_it_cannot_deliver() -> None:
    client, server, listener = stuck_link(timeout_s=2)
    start = time.monotonic()
    client.close()
    assert 1 < time.monotonic() - start < 6
    with pytest.raises(WorkerLost):
        server.receive(5)
    close(server, listener)


class Failing(GlooGroup):
    """After the warm-up, it raises errors that the gloo pair does not have."""

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> Any:
        return super().send(tensors, peer, tag) if tensors[0].nbytes == 1 else FailedWork()


class FailedWork:
    def wait(self, timeout: timedelta) -> bool:
        raise RuntimeError("NCCL error: unhandled system error")


def test_an_error_of_the_device_group_ends_the_link_at_both_ends() -> None:
    client, server, listener = linked(Failing, GlooGroup)
    client.send(Frame(Kind.STEP, 7, tensors={"value": torch.ones(1000)}))
    with pytest.raises(WorkerLost, match=r"stage 1 at .* is gone \(NCCL error: unhandled system error\)"):
        client.receive(5)
    with pytest.raises(WorkerLost, match=r"stage 0 at .* is gone"):
        server.receive(5)
    close(client, server, listener)


def test_a_wait_on_an_ended_pair_raises() -> None:
    store = HashStore()
    pairs: list[DevicePair] = []

    def make_pair(rank: int) -> None:
        pairs.append(DevicePair(Stuck, store, rank, "127.0.0.1", torch.device("cpu"), 5))

    threads = [threading.Thread(target=make_pair, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transfer = pairs[0].send(torch.ones(9))
    pairs[0].end()
    pairs[0].end()
    with pytest.raises(RuntimeError, match="the pair was ended"):
        transfer.wait(timedelta(seconds=5))
    pairs[1].end()
    Stuck.stuck_operations.acquire()


CHILD = """
import sys
from tests.support.stand_in import GlooGroup
from workers.comm.frame import PROTOCOL_VERSION, Handshake
from workers.comm.transports.torch_distributed.link import TorchDistributedListener
mine = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
listener = TorchDistributedListener(handshake=mine, device_group=GlooGroup)
print(listener.address, flush=True)
end = listener.accept(30)
sys.stdin.read()
"""


def test_a_killed_peer_is_noticed_at_once() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0]
        address = process.stdout.readline().strip()
        end = torch_distributed_connect(address, CLIENT, device_group=GlooGroup)
        process.send_signal(signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(WorkerLost, match=r"stage 1 at .* is gone"):
            end.receive(30)
        end.close()
        assert time.monotonic() - start < 5
