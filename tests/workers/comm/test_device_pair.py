"""Tensors that travel from device to device, by gloo groups in NCCL's place: what goes where, and what a loss does."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore, Store

from dni.errors import HandshakeRefused, PeerTimeout, WorkerLost
from tests.support.runs import assert_same, parameters_of, tiny
from tests.support.stand_in import GlooGroup
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.torch_distributed import nccl
from workers.comm.transports.torch_distributed.backends import Groups
from workers.comm.transports.torch_distributed.device_pair import DirectPair, MakeGroup
from workers.comm.transports.torch_distributed.end import TorchDistributedEnd
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect
from workers.comm.transports.torch_distributed.packing import MESSAGE_BYTES
from workers.comm.transports.torch_distributed.transport import TorchDistributed
from workers.launch.launcher import launch

SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
CLIENT = replace(SERVER, stage=0)
pytestmark = pytest.mark.usefixtures("no_thread_is_left")


Linked = tuple[ChannelEnd, ChannelEnd, TorchDistributedListener]


def linked(client: MakeGroup, server: MakeGroup, timeout_s: float = 5) -> Linked:
    listener = TorchDistributedListener(handshake=SERVER, timeout_s=timeout_s, direct=server)
    end = torch_distributed_connect(listener.address, CLIENT, timeout_s=timeout_s, direct=client)
    return end, listener.accept(5), listener


def close(*closing: ChannelEnd | TorchDistributedListener) -> None:
    for each in closing:
        each.close()


class Kept:
    """Makes groups, and keeps them."""

    def __init__(self) -> None:
        self.groups: list[GlooGroup] = []

    def __call__(self, store: Store, rank: int, host: str) -> GlooGroup:
        self.groups.append(GlooGroup(store, rank, host))
        return self.groups[-1]

    @property
    def sent(self) -> list[list[int]]:
        """By each group, without the byte that tries it out."""
        return [[size for size in group.sent if size != 1] for group in self.groups]


def test_what_stages_compute_with_goes_directly_and_the_rest_with_the_message() -> None:
    here, there = Kept(), Kept()
    client, server, listener = linked(here, there)
    value = torch.arange(6, dtype=torch.bfloat16, requires_grad=True).reshape(2, 3).t()
    down = {"labels": torch.tensor([[1, 2]]), "value": value, "context": torch.ones(MESSAGE_BYTES, dtype=torch.uint8)}
    client.send(Frame(Kind.STEP, 7, tensors=down))
    server.send(Frame(Kind.GRADIENT, 6, tensors={"late": torch.tensor(1), "gradient": torch.tensor(0.5).double()}))
    client.send(Frame(Kind.STEP, 8, tensors={"value": torch.empty(0, 3)}))
    frame, back, empty = server.receive(5), client.receive(5), server.receive(5)
    assert (frame.step, [*frame.tensors]) == (7, ["labels", "value", "context"])
    assert frame.tensors["value"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (frame.tensors["value"].dtype, frame.tensors["labels"].tolist()) == (torch.bfloat16, [[1, 2]])
    assert frame.tensors["context"].sum() == MESSAGE_BYTES
    assert (back.step, back.tensors["late"].item(), back.tensors["gradient"].item()) == (6, 1, 0.5)
    assert empty.tensors["value"].shape == (0, 3)
    assert here.sent == [[12], []]  # bytes; each direction has its group
    assert there.sent == [[], [8]]
    close(client, server, listener)


def test_both_sides_send_big_tensors_at_once() -> None:
    client, server, listener = linked(GlooGroup, GlooGroup)
    for step in range(20):
        for end, name in ((client, "value"), (server, "gradient")):
            end.send(Frame(Kind.STEP, step, tensors={name: torch.full((250_000,), float(step))}))
    for step in range(20):
        for end, name in ((server, "value"), (client, "gradient")):
            assert end.receive(5).tensors[name].sum() == 250_000 * step
    close(client, server, listener)


class Stuck(GlooGroup):
    """Once tried out, nothing comes through it; what is aborted looks finished, as with NCCL."""

    asked = threading.Semaphore(0)  # released by every operation that gets stuck

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
        self.asked.release()
        return StuckWork(self.aborted)


class StuckWork:
    def __init__(self, aborted: threading.Event) -> None:
        self._aborted = aborted

    def wait(self, timeout: timedelta) -> bool:
        assert self._aborted.wait(20)
        return True


def stuck_link(timeout_s: float = 5) -> Linked:
    """A link with a frame on its way whose tensor will never come."""
    client, server, listener = linked(Stuck, Stuck, timeout_s)
    client.send(Frame(Kind.STEP, 7, tensors={"value": torch.ones(1000)}))
    for _ in range(2):
        assert Stuck.asked.acquire(timeout=5)  # by the sender, and by the receiver
    return client, server, listener


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_peer_wakes_whoever_waits_and_half_a_frame_is_none(lost: int) -> None:
    *ends, listener = stuck_link()
    gone, left = ends[lost], ends[1 - lost]
    assert isinstance(gone, TorchDistributedEnd)
    start = time.monotonic()
    gone.abandon()
    with pytest.raises(WorkerLost, match="is gone"):
        left.receive(5)
    with pytest.raises(WorkerLost):
        left.send(Frame(Kind.STEP, 8))
    close(left, listener)
    assert time.monotonic() - start < 4  # less than a timeout


def test_a_close_that_cannot_deliver_gives_up_after_its_timeout() -> None:
    client, server, listener = stuck_link(timeout_s=2)
    start = time.monotonic()
    client.close()
    assert 1 < time.monotonic() - start < 6
    with pytest.raises(WorkerLost):
        server.receive(5)
    close(server, listener)


class Failing(GlooGroup):
    """Once tried out, it has errors that gloo knows nothing of."""

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> Any:
        return super().send(tensors, peer, tag) if tensors[0].nbytes == 1 else FailedWork()


class FailedWork:
    def wait(self, timeout: timedelta) -> bool:
        raise RuntimeError("NCCL error: unhandled system error")


def test_an_error_of_the_group_alone_ends_the_link_at_both_ends() -> None:
    client, server, listener = linked(Failing, GlooGroup)
    client.send(Frame(Kind.STEP, 7, tensors={"value": torch.ones(1000)}))
    with pytest.raises(WorkerLost, match=r"stage 1 at .* is gone \(NCCL error: unhandled system error\)"):
        client.receive(5)
    with pytest.raises(WorkerLost, match=r"stage 0 at .* is gone"):
        server.receive(5)
    close(client, server, listener)


def test_an_ended_pair_says_so_instead_of_returning() -> None:
    store = HashStore()
    pairs: list[DirectPair] = []

    def meet(rank: int) -> None:
        pairs.append(DirectPair(Stuck, store, rank, "127.0.0.1", torch.device("cpu"), 5))

    threads = [threading.Thread(target=meet, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sending = pairs[0].send(torch.ones(9))
    pairs[0].end()
    pairs[0].end()
    with pytest.raises(RuntimeError, match="the pair was ended"):
        sending.wait(timedelta(seconds=5))
    pairs[1].end()
    Stuck.asked.acquire()


class Hasty(GlooGroup):
    timeout_s = 0.5


def refusing(*_: object) -> GlooGroup:
    raise RuntimeError("no NCCL here")


def test_a_group_that_cannot_be_made_is_named_to_who_connects() -> None:
    listener = TorchDistributedListener(handshake=SERVER, timeout_s=1, direct=Hasty)
    with pytest.raises(PeerTimeout, match=r"stage 0: no answer from stage 1 at .* \(no NCCL here\)"):
        torch_distributed_connect(listener.address, CLIENT, timeout_s=5, direct=refusing)
    listener.close()


def assert_refused(listener: TorchDistributedListener, client: MakeGroup | None, says: str) -> None:
    with pytest.raises(HandshakeRefused, match=says):
        torch_distributed_connect(listener.address, CLIENT, timeout_s=5, direct=client)
    with pytest.raises(HandshakeRefused, match=says):
        listener.accept(5)


@pytest.mark.parametrize(("here", "there"), [(None, GlooGroup), (GlooGroup, None)])
def test_ends_with_other_backends_are_refused_on_both_sides(here: MakeGroup | None, there: MakeGroup | None) -> None:
    listener = TorchDistributedListener(handshake=SERVER, timeout_s=5, direct=there)
    one, other = ("nccl" if each else "gloo" for each in (here, there))
    assert_refused(listener, here, rf"transport\.backend is '{one}' at stage 0 and '{other}' at stage 1: start all")
    torch_distributed_connect(listener.address, CLIENT, timeout_s=5, direct=there).close()  # the next one is let in
    listener.close()


def test_stages_on_one_gpu_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Groups, "way", "nccl 7a2f")
    listener = TorchDistributedListener(handshake=SERVER, timeout_s=5, direct=GlooGroup)
    assert_refused(listener, GlooGroup, r"stages 0 and 1 are both on the GPU 7a2f.*set transport\.backend=gloo")
    listener.close()


CHILD = """
import sys
from tests.support.stand_in import GlooGroup
from workers.comm.frame import PROTOCOL_VERSION, Handshake
from workers.comm.transports.torch_distributed.link import TorchDistributedListener
mine = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
listener = TorchDistributedListener(handshake=mine, direct=GlooGroup)
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
        end = torch_distributed_connect(address, CLIENT, direct=GlooGroup)
        process.send_signal(signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(WorkerLost, match=r"stage 1 at .* is gone"):
            end.receive(30)
        end.close()
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("depth", [{"lag": 2}, {"method": "backprop"}])
def test_a_run_equals_one_in_memory_bit_for_bit(
    depth: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Kept()
    monkeypatch.setattr(nccl, "nccl_group", made)
    monkeypatch.setattr(TorchDistributed, "check_machine", lambda *_, **__: None)
    same = {"stages": 3, "depth": depth, "checkpoint": {"every": 4}}
    launch(tiny(**same, transport={"kind": "torch_distributed", "backend": "nccl"}), tmp_path / "direct")
    launch(tiny(**same), tmp_path / "local")
    assert_same(parameters_of(tmp_path / "direct", 3), parameters_of(tmp_path / "local", 3))
    assert sum(bool(sent) for sent in made.sent) == 4  # of two edges both ends, each by one of its two groups
