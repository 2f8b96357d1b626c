"""Names that look like paths: no name that another machine or the environment gives leads out of the run's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dni.errors import ConfigError, HandshakeRefused, WrongTensor
from tests.support.edges import edge, step
from tests.support.transports import CLIENT, SERVER
from workers.comm.codec import decode, encode
from workers.comm.frame import Frame, Kind
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.local import local_channel
from workers.comm.transports.process_link import LinkSettings
from workers.launch.run_folder import share_folder
from workers.storage.checkpoint import folder_of

#: Names that a careless program would follow.
TRICKS = ["..", "../x", "/etc/x", "a/b", "a/../../x", ".hidden", "-x", "~", "$HOME", "a\\b", "a\nb", "a\0b", "C:x"]

_TORCHRUN = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "night",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    yield
    assert [path.name for path in tmp_path.rglob("*")] == ["inside"]


@pytest.mark.parametrize("name", TRICKS)
def test_a_run_id_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="must be a folder name of letters"):
        share_folder([f"run_id={name}"], _TORCHRUN)


@pytest.mark.parametrize("name", TRICKS)
def test_a_job_id_of_an_engine_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="must be a folder name of letters"):
        share_folder([], {**_TORCHRUN, "TORCHELASTIC_RUN_ID": name})


@pytest.mark.parametrize("name", TRICKS)
def test_the_run_id_of_a_handshake_is_compared_and_no_path(name: str) -> None:
    settings = LinkSettings(timeout_s=10)
    with (
        closing(GrpcListener(handshake=SERVER, settings=settings)) as listener,
        pytest.raises(HandshakeRefused, match="run_id is "),
    ):
        grpc_connect(listener.address, replace(CLIENT, run_id=name, fingerprint=name), settings)


@pytest.mark.parametrize("name", [*TRICKS, "", "x" * 4000])
def test_the_name_of_a_tensor_is_refused_by_both_ends_of_an_edge(name: str) -> None:
    a, b = local_channel(8)
    down, up = edge((a, b))
    down.send(Kind.STEP, 0, step())
    up.finish(up.receive(), torch.ones(3, 2, 5), piggybacked={name: torch.ones(1)})
    assert list(down.targets()) == []
    assert down.dropped == {"WrongTensor": 1}
    a.send(decode(encode(Frame(Kind.STEP, 1, 2, tensors={**step(), name: torch.ones(1)}))))
    with pytest.raises(WrongTensor):
        up.receive()


@pytest.mark.parametrize("number", [0, 1, 10**8, 2**63, 2**64 - 1])
def test_every_step_of_a_checkpoint_frame_is_a_folder_within_the_run(number: int) -> None:
    received = decode(encode(Frame(Kind.CHECKPOINT, number, 1)))
    folder = folder_of(Path("run"), received.step)
    assert os.path.normpath(folder) == str(folder)
    assert folder.parent == Path("run/checkpoints")
