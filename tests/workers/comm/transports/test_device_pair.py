"""Routes of tensors with a device pair, with gloo groups instead of NCCL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed import Store

from tests.support.comm.device_link import close, linked
from tests.support.runs import assert_same, parameters_of, tiny
from tests.support.stand_in import GlooGroup
from workers.comm.frame import Frame, Kind
from workers.comm.transports.torch_distributed import nccl
from workers.comm.transports.torch_distributed.packing import MESSAGE_BYTES
from workers.comm.transports.torch_distributed.transport import TorchDistributed
from workers.launch.launcher import launch

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class RecordingGroups:
    """Makes groups and records them."""

    def __init__(self) -> None:
        self.groups: list[GlooGroup] = []

    def __call__(self, store: Store, rank: int, host: str) -> GlooGroup:
        self.groups.append(GlooGroup(store, rank, host))
        return self.groups[-1]

    @property
    def sent(self) -> list[list[int]]:
        """Sizes of the tensors that each group sent, without the byte of the warm-up."""
        return [[size for size in group.sent if size != 1] for group in self.groups]


def test_activations_and_gradients_use_the_device_pair_and_the_rest_the_message() -> None:
    client_groups, server_groups = RecordingGroups(), RecordingGroups()
    client, server, listener = linked(client_groups, server_groups)
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
    assert client_groups.sent == [[12], []]  # bytes; each direction has its own group
    assert server_groups.sent == [[], [8]]
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


@pytest.mark.parametrize("depth", [{"lag": 2}, {"method": "backprop"}])
def test_a_run_equals_one_in_memory_bit_for_bit(
    depth: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RecordingGroups()
    monkeypatch.setattr(nccl, "nccl_group", recorded)
    monkeypatch.setattr(TorchDistributed, "check_machine", lambda *_, **__: None)
    same = {"stages": 3, "depth": depth, "checkpoint": {"every": 4}}
    launch(tiny(**same, transport={"kind": "torch_distributed", "backend": "nccl"}), tmp_path / "direct")
    launch(tiny(**same), tmp_path / "local")
    assert_same(parameters_of(tmp_path / "direct", 3), parameters_of(tmp_path / "local", 3))
    assert sum(bool(sent) for sent in recorded.sent) == 4  # two edges; each end sends in one of its two groups
