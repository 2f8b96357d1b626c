"""The link by torch.distributed: its messages, and malformed ones, frozen peers. All else: test_link_contract."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import (
    BadShape,
    ConfigError,
    CorruptHeader,
    CorruptPayload,
    PeerTimeout,
    SizeMismatch,
    WorkerLost,
)
from tests.support.runs import assert_same, parameters_of, tiny
from tests.support.transports import CLIENT, SERVER, address_of, child
from workers.comm.frame import Frame, Kind
from workers.comm.header import make_header, write_header
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.torch_distributed.end import TorchDistributedEnd
from workers.comm.transports.torch_distributed.gloo import local_address_towards
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect
from workers.comm.transports.torch_distributed.packing import MESSAGE_BYTES, pack, unpack
from workers.launch.launcher import launch

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def listener() -> Iterator[TorchDistributedListener]:
    listener = TorchDistributedListener(handshake=SERVER, settings=LinkSettings(timeout_s=5))
    yield listener
    listener.close()


def test_the_peer_may_reply_and_close_before_send_of_the_last_frame_returns(
    listener: TorchDistributedListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = torch_distributed_connect(listener.address, CLIENT)
    server = listener.accept(10)
    assert isinstance(client, TorchDistributedEnd)
    send_frame = client._sender.frame

    def send_late(*frame: Any) -> bool:
        sent = send_frame(*frame)
        assert server.receive(10).kind is Kind.END
        server.send(Frame(Kind.DONE, 1))
        server.close()
        return sent

    monkeypatch.setattr(client._sender, "frame", send_late)
    client.send(Frame(Kind.END, 1))
    assert client.receive(10).kind is Kind.DONE
    with pytest.raises(WorkerLost, match="ended the link"):
        client.receive(10)
    client.close()


@pytest.mark.parametrize("numbers", [1, MESSAGE_BYTES // 4 - 64, MESSAGE_BYTES // 4, 1_000_000])
@pytest.mark.parametrize("checksum", [False, True])
def test_frames_of_any_size_arrive_complete(numbers: int, checksum: bool, listener: TorchDistributedListener) -> None:
    client = torch_distributed_connect(listener.address, CLIENT, LinkSettings(checksum=checksum))
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


def test_a_header_above_the_size_limit_is_refused() -> None:
    packed = pack(Frame(Kind.STEP, 7, stage=2, tensors={"x": torch.ones(100), "y": torch.ones(100)}))
    with pytest.raises(BadShape, match="step 7 from stage 2: tensor 'x' has shape"):
        unpack(memoryview(packed.message.numpy()), limit=399)
    with pytest.raises(SizeMismatch, match=r"step 7 from stage 2: a frame of \d+ bytes; the limit is 700"):
        unpack(memoryview(packed.message.numpy()), limit=700)


def test_a_malformed_frame_is_an_error_in_its_place_and_ends_the_link(listener: TorchDistributedListener) -> None:
    client = torch_distributed_connect(listener.address, CLIENT, LinkSettings(timeout_s=5))
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


def test_a_unix_socket_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has no unix sockets: use 127\.0\.0\.1:0"):
        TorchDistributedListener("unix:/tmp/stage", handshake=SERVER)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_local_address_towards_this_machine_is_loopback(host: str) -> None:
    assert local_address_towards(host, 80) in ("127.0.0.1", "::1")


@pytest.mark.long
def test_a_frozen_peer_is_a_timeout_and_does_not_delay_close() -> None:
    with child("torch_distributed", "listen") as process:
        end = torch_distributed_connect(address_of(process), CLIENT, LinkSettings(timeout_s=2))
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerTimeout, match=r"stage 1 at .* within 0\.1 s"):
            end.receive(0.1)
        start = time.monotonic()
        end.close()
        assert 1 < time.monotonic() - start < 10
        process.kill()


def test_a_decoupled_run_with_a_lag_equals_one_in_memory_bit_for_bit(tmp_path: Path) -> None:
    same = {"stages": 3, "depth": {"lag": 2}, "checkpoint": {"every": 4}}
    launch(tiny(**same, transport={"kind": "torch_distributed", "delay_ms": 2}), tmp_path / "torch")
    launch(tiny(**same), tmp_path / "local")
    assert_same(parameters_of(tmp_path / "torch", 3), parameters_of(tmp_path / "local", 3))
