"""The link by torch.distributed: who is let in, what a bad peer can do, and what is left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import (
    BadShape,
    ConfigError,
    CorruptHeader,
    CorruptPayload,
    HandshakeRefused,
    PeerTimeout,
    SizeMismatch,
    WorkerLost,
)
from tests.support.listening import listening
from tests.support.runs import assert_same, parameters_of, tiny
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.header import make_header, write_header
from workers.comm.transports.torch_distributed.end import TorchDistributedEnd
from workers.comm.transports.torch_distributed.gloo import way_to
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect
from workers.comm.transports.torch_distributed.packing import MESSAGE_BYTES, pack, unpack
from workers.launch.launcher import launch

SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
CLIENT = replace(SERVER, stage=0)
pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def listener() -> Iterator[TorchDistributedListener]:
    listener = TorchDistributedListener(handshake=SERVER, timeout_s=5)
    yield listener
    listener.close()


def assert_accepts(listener: TorchDistributedListener) -> None:
    """A proper client gets in and is heard."""
    client = torch_distributed_connect(listener.address, CLIENT, timeout_s=10)
    server = listener.accept(10)
    client.send(Frame(Kind.STEP, 1, tensors={"value": torch.ones(1)}))
    assert server.receive(10).step == 1
    server.send(Frame(Kind.DONE, 1))
    assert client.receive(10).kind is Kind.DONE
    client.close()
    server.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("protocol_version", 9), ("run_id", "other"), ("stages", 3), ("fingerprint", "else"), ("next_step", 11)],
)
def test_a_mismatch_is_refused_on_both_sides_with_both_values(
    listener: TorchDistributedListener, field: str, value: object
) -> None:
    said = rf"{field} is {value!r} at stage 0 and {getattr(SERVER, field)!r} at stage 1"
    with pytest.raises(HandshakeRefused, match=said):
        torch_distributed_connect(listener.address, replace(CLIENT, **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(HandshakeRefused, match=said):
        listener.accept(10)
    assert_accepts(listener)


def test_only_the_stage_before_is_let_in(listener: TorchDistributedListener) -> None:
    said = "stage 2 connected to stage 1, which follows 0"
    with pytest.raises(HandshakeRefused, match=said):
        torch_distributed_connect(listener.address, replace(CLIENT, stage=2))
    with pytest.raises(HandshakeRefused, match=said):
        listener.accept(10)
    assert_accepts(listener)


def test_a_stranger_changes_nothing(listener: TorchDistributedListener) -> None:
    host, port = listener.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert_accepts(listener)


def test_a_last_frame_may_be_answered_and_the_link_ended_before_send_returns(
    listener: TorchDistributedListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = torch_distributed_connect(listener.address, CLIENT)
    server = listener.accept(10)
    assert isinstance(client, TorchDistributedEnd)
    post = client._sender.frame

    def slowly(*frame: Any) -> bool:
        taken = post(*frame)
        assert server.receive(10).kind is Kind.END
        server.send(Frame(Kind.DONE, 1))
        server.close()
        return taken

    monkeypatch.setattr(client._sender, "frame", slowly)
    client.send(Frame(Kind.END, 1))
    assert client.receive(10).kind is Kind.DONE
    with pytest.raises(WorkerLost, match="ended the link"):
        client.receive(10)
    client.close()


def test_a_link_on_loopback_listens_nowhere_else(listener: TorchDistributedListener) -> None:
    client = torch_distributed_connect(listener.address, CLIENT)
    server = listener.accept(10)
    assert listening() <= {"127.0.0.1"}
    client.close()
    server.close()


@pytest.mark.parametrize("numbers", [1, MESSAGE_BYTES // 4 - 64, MESSAGE_BYTES // 4, 1_000_000])
@pytest.mark.parametrize("checksum", [False, True])
def test_frames_of_any_size_arrive_whole(numbers: int, checksum: bool, listener: TorchDistributedListener) -> None:
    client = torch_distributed_connect(listener.address, CLIENT, checksum=checksum)
    server = listener.accept(10)
    tensors = {
        "value": torch.arange(float(numbers)), "none": torch.empty(0, 3), "labels": torch.tensor([[1, 2]]),
        "half": torch.ones(5, dtype=torch.bfloat16), "last": torch.tensor(True),
    }  # fmt: skip
    for step in range(3):
        client.send(Frame(Kind.STEP, step, tensors=tensors))
    for step in range(3):
        frame = server.receive(10)
        assert frame.step == step
        assert [*frame.tensors] == [*tensors]
        for name, tensor in tensors.items():
            assert torch.equal(frame.tensors[name], tensor)
    client.close()
    server.close()


def test_a_changed_tensor_does_not_match_its_checksum() -> None:
    packed = pack(Frame(Kind.STEP, 7, stage=2, tensors={"value": torch.ones(100_000)}), checksum=True)
    arriving = unpack(memoryview(packed.message.numpy()), limit=10**6)
    arriving.apart[0].copy_(packed.apart[0])
    assert arriving.finish().tensors["value"].sum() == 100_000
    arriving.apart[0][5] = 2
    with pytest.raises(CorruptPayload, match="step 7 from stage 2"):
        arriving.finish()


def test_a_header_may_announce_no_more_than_the_limit() -> None:
    packed = pack(Frame(Kind.STEP, 7, stage=2, tensors={"x": torch.ones(100), "y": torch.ones(100)}))
    with pytest.raises(BadShape, match="step 7 from stage 2: tensor 'x' has shape"):
        unpack(memoryview(packed.message.numpy()), limit=399)
    with pytest.raises(SizeMismatch, match=r"step 7 from stage 2: a frame of \d+ bytes; the limit is 700"):
        unpack(memoryview(packed.message.numpy()), limit=700)


def test_a_malformed_frame_is_an_error_in_its_place_and_ends_the_link(listener: TorchDistributedListener) -> None:
    client = torch_distributed_connect(listener.address, CLIENT, timeout_s=5)
    server = listener.accept(10)
    assert isinstance(client, TorchDistributedEnd)
    client.send(Frame(Kind.STEP, 7, tensors={"value": torch.ones(100_000)}))
    header = bytearray(write_header(make_header(Frame(Kind.STEP, 8))))
    header[-1] ^= 1
    client._sender.frame(torch.frombuffer(header, dtype=torch.uint8), [])
    assert server.receive(10).step == 7
    with pytest.raises(CorruptHeader, match=r"malformed frame from stage 0 at 127\.0\.0\.1: the header's checksum"):
        server.receive(10)
    with pytest.raises(WorkerLost, match="ended with a malformed frame"):
        server.receive(10)
    with pytest.raises(WorkerLost, match="stage 1"):
        client.receive(10)
    client.close()
    server.close()


def test_a_frame_larger_than_the_link_carries_is_refused_at_the_sender(listener: TorchDistributedListener) -> None:
    client = torch_distributed_connect(listener.address, CLIENT, max_frame=1000)
    with pytest.raises(SizeMismatch, match=r"step 5: STEP to stage 1 at .* the link carries 1000"):
        client.send(Frame(Kind.STEP, 5, tensors={"value": torch.ones(1000)}))
    client.send(Frame(Kind.STEP, 6))
    assert listener.accept(10).receive(10).step == 6
    client.close()


def test_nobody_there_is_a_timeout_with_address_and_stage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(PeerTimeout, match=rf"stage 0: no answer from stage 1 at {address} within 0\.2 s"):
        torch_distributed_connect(address, CLIENT, timeout_s=0.2)


def test_a_client_may_come_before_the_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    ends = []
    thread = threading.Thread(target=lambda: ends.append(torch_distributed_connect(address, CLIENT, timeout_s=20)))
    thread.start()
    listener = TorchDistributedListener(address, handshake=SERVER)
    listener.accept(20)
    thread.join()
    ends[0].close()
    listener.close()


def test_nobody_comes_is_a_timeout_with_address_and_stage(listener: TorchDistributedListener) -> None:
    with pytest.raises(PeerTimeout, match=rf"stage 1: stage 0 did not connect to {listener.address} within 0\.05 s"):
        listener.accept(0.05)


def test_a_closed_listener_closes_its_ends(listener: TorchDistributedListener) -> None:
    client = torch_distributed_connect(listener.address, CLIENT)
    listener.accept(10)
    listener.close()
    with pytest.raises(WorkerLost, match=f"stage 1 at {listener.address}"):
        client.receive(10)
    client.close()
    with pytest.raises(WorkerLost, match="is closed"):
        listener.accept(10)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "example.org:80"])
def test_beyond_loopback_is_refused(bind: str) -> None:
    with pytest.raises(ConfigError, match="insecure=true"):
        TorchDistributedListener(bind, handshake=SERVER)
    with pytest.raises(ConfigError, match="insecure=true"):
        torch_distributed_connect(bind, CLIENT)


def test_beyond_loopback_can_be_allowed() -> None:
    listener = TorchDistributedListener("0.0.0.0:0", handshake=SERVER, insecure=True)
    listener.address = listener.address.replace("0.0.0.0", "127.0.0.1")
    assert_accepts(listener)
    listener.close()


def test_a_unix_socket_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has no unix sockets: use 127\.0\.0\.1:0"):
        TorchDistributedListener("unix:/tmp/stage", handshake=SERVER)


def test_a_port_in_use_is_refused(listener: TorchDistributedListener) -> None:
    with pytest.raises(ConfigError, match=f"stage 1: cannot listen at {listener.address}"):
        TorchDistributedListener(listener.address, handshake=SERVER)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_way_to_this_machine_is_loopback(host: str) -> None:
    assert way_to(host, 80) in ("127.0.0.1", "::1")


CHILD = """
import sys
from dataclasses import replace
from workers.comm.frame import PROTOCOL_VERSION, Handshake
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect
mine = Handshake(PROTOCOL_VERSION, "run", 2, 4, "fingerprint", 0, 10)
listener = TorchDistributedListener(handshake=mine)
if sys.argv[1] == "alone":  # both ends, neither closed
    client = torch_distributed_connect(listener.address, replace(mine, stage=1))
    server = listener.accept(10)
    sys.exit(7)
print(listener.address, flush=True)
end = listener.accept(30)
sys.stdin.read()
"""


def child(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_the_interpreter_ends_though_nobody_closed_anything() -> None:
    with child("alone") as process:
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (7, "")


def test_a_killed_peer_is_noticed_at_once_and_named() -> None:
    with child("listen") as process:
        end = torch_distributed_connect(address_of(process), replace(SERVER, stage=1))
        process.send_signal(signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(WorkerLost, match=r"stage 2 at .* is gone \(.*by peer") as error:
            end.receive(30)
        assert not isinstance(error.value, PeerTimeout)
        assert time.monotonic() - start < 5
        with pytest.raises(WorkerLost):
            end.send(Frame(Kind.STEP, 1))
        end.close()


def test_a_frozen_peer_is_a_timeout_and_does_not_hold_up_the_end() -> None:
    with child("listen") as process:
        end = torch_distributed_connect(address_of(process), replace(SERVER, stage=1), timeout_s=2)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerTimeout, match=r"stage 2 at .* within 0\.1 s"):
            end.receive(0.1)
        start = time.monotonic()
        end.close()
        assert 1 < time.monotonic() - start < 10
        process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0]
    return process.stdout.readline().strip()


def test_a_decoupled_run_with_a_lag_equals_one_in_memory_bit_for_bit(tmp_path: Path) -> None:
    same = {"stages": 3, "depth": {"lag": 2}, "checkpoint": {"every": 4}}
    launch(tiny(**same, transport={"kind": "torch_distributed", "delay_ms": 2}), tmp_path / "torch")
    launch(tiny(**same), tmp_path / "local")
    assert_same(parameters_of(tmp_path / "torch", 3), parameters_of(tmp_path / "local", 3))
