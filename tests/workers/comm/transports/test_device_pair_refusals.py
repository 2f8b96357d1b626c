"""Ends that cannot send tensors from device to device: both are told why."""

from __future__ import annotations

import pytest

from dni.errors import HandshakeRefused, PeerTimeout
from tests.support.comm.device_link import CLIENT, SERVER
from tests.support.stand_in import GlooGroup
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.torch_distributed.backends import Groups
from workers.comm.transports.torch_distributed.device_pair import MakeGroup
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Hasty(GlooGroup):
    timeout_s = 0.5


def refusing(*_: object) -> GlooGroup:
    raise RuntimeError("no NCCL here")


def test_a_group_that_cannot_be_made_is_named_to_who_connects() -> None:
    listener = TorchDistributedListener(handshake=SERVER, settings=LinkSettings(timeout_s=1), device_group=Hasty)
    with pytest.raises(PeerTimeout, match=r"stage 0: no answer from stage 1 at .* \(no NCCL here\)"):
        torch_distributed_connect(listener.address, CLIENT, LinkSettings(timeout_s=5), device_group=refusing)
    listener.close()


def assert_refused(listener: TorchDistributedListener, client: MakeGroup | None, says: str) -> None:
    with pytest.raises(HandshakeRefused, match=says):
        torch_distributed_connect(listener.address, CLIENT, LinkSettings(timeout_s=5), device_group=client)
    with pytest.raises(HandshakeRefused, match=says):
        listener.accept(5)


@pytest.mark.parametrize(("here", "there"), [(None, GlooGroup), (GlooGroup, None)])
def test_ends_with_other_backends_are_refused_on_both_sides(here: MakeGroup | None, there: MakeGroup | None) -> None:
    listener = TorchDistributedListener(handshake=SERVER, settings=LinkSettings(timeout_s=5), device_group=there)
    one, other = ("nccl" if each else "gloo" for each in (here, there))
    assert_refused(listener, here, rf"transport\.backend is '{one}' at stage 0 and '{other}' at stage 1: start all")
    torch_distributed_connect(
        listener.address, CLIENT, LinkSettings(timeout_s=5), device_group=there
    ).close()  # the next one is let in
    listener.close()


def test_stages_on_one_gpu_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Groups, "route", "nccl 7a2f")
    listener = TorchDistributedListener(handshake=SERVER, settings=LinkSettings(timeout_s=5), device_group=GlooGroup)
    assert_refused(listener, GlooGroup, r"stages 0 and 1 are both on the GPU 7a2f.*set transport\.backend=gloo")
    listener.close()
