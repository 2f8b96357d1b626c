"""Copies between a GPU and pinned memory, and runs that use them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.runs import assert_near, parameters_of, tiny
from tests.support.workers.gpus import on_gpus
from workers.comm.frame import Frame, Kind
from workers.comm.header import Spec
from workers.comm.transports.staging import Staging, staging_for
from workers.launch.launcher import launch


def test_a_stage_on_the_cpu_needs_no_copies() -> None:
    assert staging_for(torch.device("cpu")) is None


@on_gpus(1)
def test_a_copy_has_the_values_at_the_time_of_sending() -> None:
    staging = Staging(torch.device("cuda:0"))
    value, labels = torch.ones(4_000_000, device="cuda:0"), torch.tensor([1, 2])
    leaving = staging.start_copy(Frame(Kind.STEP, 3, tensors={"value": value, "labels": labels}))
    value.zero_()
    labels.zero_()
    frame = leaving.wait()
    assert (frame.kind, frame.step) == (Kind.STEP, 3)
    assert frame.tensors["value"].is_pinned()
    assert frame.tensors["value"].sum() == 4_000_000
    assert frame.tensors["labels"].tolist() == [1, 2]


@on_gpus(1)
def test_concurrent_copies_do_not_share_memory() -> None:
    staging, value = Staging(torch.device("cuda:0")), torch.zeros(1_000_000, device="cuda:0")
    leaving = []
    for number in range(8):
        value.fill_(number)
        leaving.append(staging.start_copy(Frame(Kind.STEP, number, tensors={"value": value})))
    assert [int(each.wait().tensors["value"].mean()) for each in leaving] == list(range(8))


@on_gpus(1)
def test_received_values_are_moved_to_the_gpu_and_other_tensors_are_not() -> None:
    staging = Staging(torch.device("cuda:0"))
    specs = [Spec("value", torch.float32, (3,), 12), Spec("reset", torch.bool, (3,), 3)]
    frame = Frame(Kind.STEP, 1, tensors={spec.name: staging.allocate(spec).fill_(1) for spec in specs})
    assert [tensor.is_pinned() for tensor in frame.tensors.values()] == [True, False]
    arrived = staging.on_take(frame).tensors
    assert [str(tensor.device) for tensor in arrived.values()] == ["cuda:0", "cpu"]
    assert arrived["value"].tolist() == [1, 1, 1]


@on_gpus(1)
@pytest.mark.parametrize("transport", ["grpc", "torch_distributed"])
def test_a_run_equals_one_whose_frames_stay_on_the_gpu(transport: str, tmp_path: Path) -> None:
    same = {"stages": 3, "depth": {"method": "backprop"}}
    launch(tiny(**same, transport={"kind": transport}), tmp_path / "staged")
    launch(tiny(**same), tmp_path / "local")
    assert_near(parameters_of(tmp_path / "staged", 3), parameters_of(tmp_path / "local", 3))
