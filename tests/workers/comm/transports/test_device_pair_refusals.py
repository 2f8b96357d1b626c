"""Ends that cannot make a device pair: both report why."""

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


class ShortTimeout(GlooGroup):
    timeout_s = 0.5


def failing_group(*_: object) -> GlooGroup:
    raise RuntimeError("no NCCL here")


def test_an_error_while_making_the_group_is_reported_to_the_client() -> None:
    listener = TorchDistributedListener(handshake=SERVER, settings=LinkSettings(timeout_s=1), device_group=ShortTimeout)
    with pytest.raises(PeerTimeout, match=r"stage 0: no answer from stage 1 at .* \(no NCCL here\)"):
        torch_distributed_connect(listener.address, CLIENT, LinkSettings(timeout_s=5), device_group=failing_group)
    listener.close()


def assert_refused(listener: TorchDistributedListener, client: MakeGroup | None, message: str) -> None:
    with pytest.raises(HandshakeRefused, match=message):
        torch_distributed_connect(listener.address, CLIENT, LinkSettings(timeout_s=5), device_group=client)
    with pytest.raises(HandshakeRefused, match=message):
        listener.accept(5)


@pytest.mark.parametrize(("client_group", "server_group"), [(None, GlooGroup), (GlooGroup, None)])
def test_ends_with_other_backends_are_refused_on_both_sides(
    client_group: MakeGroup | None, server_group: MakeGroup | None
) -> None:
    listener = TorchDistributedListener(handshake=SERVER, settings=LinkSettings(timeout_s=5), device_group=server_group)
    client_backend, server_backend = ("nccl" if each else "gloo" for each in (client_group, server_group))
    assert_refused(
        listener,
        client_group,
        rf"transport\.backend is '{client_backend}' at stage 0 and '{server_backend}' at stage 1: start all",
    )
    matching = torch_distributed_connect(listener.address, CLIENT, LinkSettings(timeout_s=5), device_group=server_group)
    matching.close()
    listener.close()


def test_stages_on_one_gpu_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Groups, "route", "nccl 7a2f")
    listener = TorchDistributedListener(handshake=SERVER, settings=LinkSettings(timeout_s=5), device_group=GlooGroup)
    assert_refused(listener, GlooGroup, r"stages 0 and 1 are both on the GPU 7a2f.*set transport\.backend=gloo")
    listener.close()
