"""Links over NCCL: refused devices and, with two GPUs, transfers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import ConfigError, HandshakeRefused, WorkerLost
from tests.support.refusals import refusal_of
from tests.support.runs import assert_near, parameters_of, tiny
from tests.support.stand_in import GlooGroup
from tests.support.workers.gpus import on_gpus
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.torch_distributed.end import TorchDistributedEnd
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect
from workers.comm.transports.torch_distributed.nccl import nccl_group
from workers.comm.transports.torch_distributed.transport import TorchDistributed
from workers.config.settings import Config
from workers.launch.launcher import launch

SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 4, "fingerprint", 0, 10)
CLIENT = replace(SERVER, stage=0)


def nccl_config(**changes: Any) -> Config:
    return tiny(transport={"kind": "torch_distributed", "backend": "nccl"}, **changes)


@pytest.mark.parametrize(
    ("devices", "first", "message"),
    [
        (["cuda:0", "cpu"], 0, "and stage 1 is on cpu"),
        (["cpu"], 2, "and stage 2 is on cpu"),
        (["cuda:0", "cuda:1", "cuda:1"], 0, "of their own, and stages 1 and 2 are both on cuda:1"),
    ],
)
def test_stages_without_a_gpu_of_their_own_are_refused(
    devices: list[str], first: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    with pytest.raises(ConfigError, match=rf"transport\.backend=nccl joins stages on GPUs.*{message}") as refused:
        nccl_config().transport.check_machine(devices, first)
    assert "set devices=[cuda:0,cuda:1], say, or transport.backend=gloo" in str(refused.value)


def test_a_torch_without_nccl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"this torch has no NCCL: install its CUDA build, or set transport\.backend="
    ):
        nccl_config().transport.check_machine(["cuda:0", "cuda:1"])


def test_gpus_that_differ_between_neighbours_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert refusal_of(nccl_config().transport.check_machine, ["cuda:0", "cuda:1", "cuda:0"]) is None
    assert refusal_of(nccl_config().transport.check_machine, ["cuda:3"], 1) is None
    assert refusal_of(TorchDistributed().check_machine, ["cpu", "cpu"]) is None


@on_gpus(1)
def test_stages_on_one_gpu_are_refused() -> None:
    device = torch.device("cuda:0")
    settings = LinkSettings(device=device)
    listener = TorchDistributedListener(handshake=SERVER, settings=settings, device_group=GlooGroup)
    with pytest.raises(HandshakeRefused, match="stages 0 and 1 are both on the GPU"):
        torch_distributed_connect(listener.address, CLIENT, settings, device_group=GlooGroup)
    with pytest.raises(HandshakeRefused, match="stages 0 and 1 are both on the GPU"):
        listener.accept(5)
    listener.close()


@pytest.fixture
def ends() -> Iterator[tuple[ChannelEnd, ChannelEnd]]:
    listener = TorchDistributedListener(
        handshake=SERVER, settings=LinkSettings(device=torch.device("cuda:1")), device_group=nccl_group
    )
    client = torch_distributed_connect(
        listener.address, CLIENT, LinkSettings(device=torch.device("cuda:0")), device_group=nccl_group
    )
    yield client, listener.accept(30)
    client.close()
    listener.close()


@on_gpus(2)
def test_frames_go_both_ways_at_once_and_sent_tensors_may_be_changed(ends: tuple[ChannelEnd, ChannelEnd]) -> None:
    client, server = ends
    value, gradient = (torch.zeros(4_000_000, device=f"cuda:{k}") for k in (0, 1))
    for step in range(20):
        value.fill_(step)
        client.send(Frame(Kind.STEP, step, tensors={"value": value, "labels": torch.tensor([step])}))
        gradient.fill_(-step)
        server.send(Frame(Kind.GRADIENT, step, tensors={"gradient": gradient}))
    for step in range(20):
        down, up = server.receive(30).tensors, client.receive(30).tensors
        assert [str(each.device) for each in (*down.values(), *up.values())] == ["cuda:1", "cpu", "cuda:0"]
        assert torch.equal(down["value"], torch.full((4_000_000,), float(step), device="cuda:1"))
        assert torch.equal(up["gradient"], torch.full((4_000_000,), -float(step), device="cuda:0"))
        assert down["labels"].tolist() == [step]


@on_gpus(2)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int16, torch.bool])
def test_any_element_type_and_layout_arrives(dtype: torch.dtype, ends: tuple[ChannelEnd, ChannelEnd]) -> None:
    client, server = ends
    value = torch.arange(6, device="cuda:0").reshape(2, 3).t().to(dtype)
    for tensor in (value, value[0, 0], value[:0]):
        client.send(Frame(Kind.STEP, 1, tensors={"value": tensor}))
        arrived = server.receive(30).tensors["value"]
        assert arrived.is_contiguous()
        assert torch.equal(arrived.cpu(), tensor.cpu())


@on_gpus(2)
def test_a_lost_peer_ends_operations_that_wait_on_the_gpu(ends: tuple[ChannelEnd, ChannelEnd]) -> None:
    client, server = ends
    assert isinstance(server, TorchDistributedEnd)
    for step in range(8):
        client.send(Frame(Kind.STEP, step, tensors={"value": torch.zeros(50_000_000, device="cuda:0")}))
    server.abandon()
    with pytest.raises(WorkerLost, match="stage 1"):
        client.receive(30)
    torch.cuda.synchronize("cuda:0")


@on_gpus(2)
@pytest.mark.parametrize("mode", ["threads", "processes"])
def test_a_run_equals_one_whose_frames_stay_in_memory(mode: str, tmp_path: Path) -> None:
    same = {"depth": {"method": "backprop"}, "devices": ["cuda:0", "cuda:1"]}
    launch(nccl_config(**same, launch={"mode": mode}), tmp_path / "nccl")
    launch(tiny(**same), tmp_path / "local")
    assert_near(parameters_of(tmp_path / "nccl", 2), parameters_of(tmp_path / "local", 2))
