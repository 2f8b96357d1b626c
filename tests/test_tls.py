"""Links whose ends prove who they are, on loopback, with certificates that live as long as the test."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dni.errors import ConfigError, PeerTimeout
from tests.certificates import authority
from tests.runs import assert_same, parameters_of, tiny
from workers.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.launcher import launch
from workers.transports.grpc import GrpcListener, grpc_connect
from workers.transports.tls import Tls

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")

SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 2, "fingerprint", 0, 1)
CLIENT = replace(SERVER, stage=0)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return authority(tmp_path_factory.mktemp("tls") / "ours")


def test_frames_cross_an_encrypted_link_and_it_may_leave_the_machine(ours: dict[str, str]) -> None:
    tls = Tls.read(**ours)
    listener = GrpcListener("0.0.0.0:0", handshake=SERVER, tls=tls)
    client = grpc_connect(listener.address.replace("0.0.0.0", "127.0.0.1"), CLIENT, tls=tls)
    server = listener.accept(10)
    client.send(Frame(Kind.STEP, 1, tensors={"value": torch.arange(3.0)}))
    assert server.receive(10).tensors["value"].tolist() == [0, 1, 2]
    for end in (client, server, listener):
        end.close()


def test_a_byte_order_mark_is_no_part_of_a_certificate(ours: dict[str, str], tmp_path: Path) -> None:
    marked = {name: str(tmp_path / name) for name in ours}
    for name, path in ours.items():
        Path(marked[name]).write_bytes(b"\xef\xbb\xbf" + Path(path).read_bytes())
    assert Tls.read(**marked) == Tls.read(**ours)


@pytest.mark.parametrize("who", ["plaintext", "another authority", "another host's name"])
def test_strangers_are_not_let_in(who: str, ours: dict[str, str], tmp_path: Path) -> None:
    tls = Tls.read(**ours)
    theirs: Tls | None = None
    if who == "another authority":
        theirs = replace(Tls.read(**authority(tmp_path / "theirs")), ca=tls.ca)  # trusts us, and is not trusted
    listening = tls
    if who == "another host's name":
        files = authority(tmp_path / "elsewhere", "DNS:elsewhere.example")
        listening = theirs = Tls.read(**files)
    listener = GrpcListener(handshake=SERVER, tls=listening)
    with pytest.raises(PeerTimeout, match="no answer from stage 1"):
        grpc_connect(listener.address, CLIENT, tls=theirs, timeout_s=0.5)
    with pytest.raises(PeerTimeout):
        listener.accept(0)
    listener.close()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("key", None, r"transport\.tls\.key=.*/key\.pem cannot be read: No such file or directory"),
        ("ca", "hello", r"transport\.tls\.ca=.*/ca\.pem is not a file in PEM format"),
    ],
)
def test_files_that_are_none_are_refused_before_anything_starts(
    name: str, text: str | None, message: str, ours: dict[str, str], tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / f"{name}.pem").write_text(text)
    files = ours | {name: str(tmp_path / f"{name}.pem")}
    with pytest.raises(ConfigError, match=message):
        launch(tiny(transport={"kind": "grpc", "tls": files}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_over_encrypted_links_equals_one_without_any_bit_for_bit(ours: dict[str, str], tmp_path: Path) -> None:
    same = {"depth": {"method": "backprop"}, "steps": 3}
    launch(tiny(**same, transport={"kind": "grpc", "tls": ours}), tmp_path / "tls")
    launch(tiny(**same), tmp_path / "local")
    assert_same(parameters_of(tmp_path / "tls", 2), parameters_of(tmp_path / "local", 2))
