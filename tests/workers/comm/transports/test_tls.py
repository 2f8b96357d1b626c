"""Links with TLS on loopback, with certificates made for the test."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dni.errors import ConfigError, HandshakeRefused, PeerTimeout
from tests.support.certificates import authority
from tests.support.comm.proxy import Proxy
from tests.support.runs import assert_same, parameters_of, tiny
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc.channel import newest
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.grpc.tls import Tls
from workers.comm.transports.process_link import LinkSettings
from workers.launch.launcher import launch

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")

SERVER = Handshake(PROTOCOL_VERSION, "run", 1, 2, "fingerprint", 0, 1)
CLIENT = replace(SERVER, stage=0)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return authority(tmp_path_factory.mktemp("tls") / "ours")


def test_frames_cross_an_encrypted_link_that_listens_on_all_interfaces(ours: dict[str, str]) -> None:
    tls = Tls.read(**ours)
    listener = GrpcListener("0.0.0.0:0", handshake=SERVER, tls=tls)
    client = grpc_connect(listener.address.replace("0.0.0.0", "127.0.0.1"), CLIENT, tls=tls)
    server = listener.accept(10)
    client.send(Frame(Kind.STEP, 1, tensors={"value": torch.arange(3.0)}))
    assert server.receive(10).tensors["value"].tolist() == [0, 1, 2]
    for end in (client, server, listener):
        end.close()


def test_a_byte_order_mark_before_a_certificate_is_ignored(ours: dict[str, str], tmp_path: Path) -> None:
    marked = {name: str(tmp_path / name) for name in ours}
    for name, path in ours.items():
        Path(marked[name]).write_bytes(b"\xef\xbb\xbf" + Path(path).read_bytes())
    assert Tls.read(**marked) == Tls.read(**ours)


def exchange(client: ChannelEnd, server: ChannelEnd, step: int) -> None:
    client.send(Frame(Kind.STEP, step, step))
    assert server.receive(20).step == step
    server.send(Frame(Kind.DONE, step, step, step))
    assert client.receive(20).step == step


def test_changed_certificates_are_read_for_the_next_connection(
    ours: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe_after = "workers.comm.transports.grpc.refusal._PROBE_AFTER_S"
    monkeypatch.setattr(probe_after, 20)  # a probe would be the newest connection, the one that is cut
    used = {name: str(shutil.copy(path, tmp_path)) for name, path in ours.items()}
    settings = LinkSettings(timeout_s=20, reconnect_s=20)
    with (
        closing(GrpcListener(handshake=SERVER, settings=settings, tls=Tls.watched(**used))) as listener,
        closing(Proxy(listener.address)) as proxy,
    ):
        client = grpc_connect(proxy.address, CLIENT, settings, tls=Tls.watched(**used))
        server = listener.accept(20)
        exchange(client, server, 1)
        for name, path in authority(tmp_path / "newer").items():
            shutil.copy(path, used[name])
        exchange(client, server, 2)  # the connection goes on
        proxy.cut()
        exchange(client, server, 3)
        assert client.reconnects == 1
        monkeypatch.setattr(probe_after, 0.1)
        with pytest.raises((HandshakeRefused, PeerTimeout)):  # the authority of before is not believed any more
            grpc_connect(listener.address, CLIENT, replace(settings, timeout_s=3), tls=Tls.read(**ours))
        client.close()


@pytest.mark.parametrize("case", ["key only", "unreadable", "expired"])
def test_changed_certificates_that_cannot_be_used_are_not(case: str, ours: dict[str, str], tmp_path: Path) -> None:
    used = {name: str(shutil.copy(path, tmp_path)) for name, path in ours.items()}
    tls = Tls.watched(**used)
    theirs = authority(tmp_path / "theirs", days=-1 if case == "expired" else 2)
    for name in ("key",) if case == "key only" else theirs:
        shutil.copy(theirs[name], used[name])
    if case == "unreadable":
        Path(used["ca"]).write_text("half a fi")
    assert newest(tls) is tls


def two_ends(case: str, ours: Tls, folder: Path) -> tuple[Tls | None, Tls | None]:
    """Return the TLS settings of client and server; those of one side are wrong."""
    if case == "another host's name":
        elsewhere = Tls.read(**authority(folder / "elsewhere", "DNS:elsewhere.example"))
        return elsewhere, elsewhere
    valid, stranger = ours, None
    if case.startswith("another authority"):
        stranger = replace(Tls.read(**authority(folder / "theirs")), ca=ours.ca)  # not signed by our authority
    elif case.startswith("expired"):
        expired = Tls.read(**authority(folder / "theirs", days=-1))
        valid, stranger = (replace(one, ca=ours.ca + expired.ca) for one in (ours, expired))
    return (stranger, valid) if case.endswith(" here") else (valid, stranger)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("plaintext here", "it wants TLS and this stage speaks plaintext: set transport.tls at all stages, or at none"),
        ("plaintext there", "it speaks plaintext and this stage wants TLS: set transport.tls at all stages, or at"),
        ("another authority here", "it does not accept this stage's certificate: all stages need one of the same auth"),
        ("another authority there", "its certificate is not signed by the authority in transport.tls.ca"),
        ("another host's name", r"its certificate is not for the name 127\.0\.0\.1: make one that names it"),
        ("expired here", "it does not accept this stage's certificate"),
        ("expired there", "its certificate has expired: make a new one"),
    ],
)
def test_an_end_with_wrong_tls_settings_is_refused_with_a_reason_within_seconds(
    case: str, message: str, ours: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.comm.transports.grpc.refusal._PROBE_AFTER_S", 0.1)
    client_tls, server_tls = two_ends(case, Tls.read(**ours), tmp_path)
    listener = GrpcListener(handshake=SERVER, tls=server_tls)
    start = time.monotonic()
    with pytest.raises(HandshakeRefused, match=f"no link to stage 1 at 127.*: {message}"):
        grpc_connect(listener.address, CLIENT, tls=client_tls, settings=LinkSettings(timeout_s=60))
    assert time.monotonic() - start < 15
    with pytest.raises(PeerTimeout):
        listener.accept(0)
    listener.close()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("expired", r"the certificate in transport\.tls\.cert has expired: make a new one \(cert=.*cert\.pem, key=.*"),
        ("wrong authority", r"the certificate in transport\.tls\.cert is not signed by the authority in transport"),
        ("another key", r"transport\.tls\.key does not match transport\.tls\.cert: give the key that"),
    ],
)
def test_an_unusable_certificate_is_refused_before_anything_starts(
    case: str, message: str, ours: dict[str, str], tmp_path: Path
) -> None:
    theirs = authority(tmp_path / "theirs", days=-1 if case == "expired" else 2)
    files = {
        "expired": theirs,
        "wrong authority": {**theirs, "ca": ours["ca"]},
        "another key": {**ours, "key": theirs["key"]},
    }
    with pytest.raises(ConfigError, match=message):
        launch(tiny(transport={"kind": "grpc", "tls": files[case]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    if case == "another key":
        with pytest.raises(ConfigError, match=f"cannot listen at .*; {message}"):
            GrpcListener(handshake=SERVER, tls=Tls.read(**files[case]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("key", None, r"transport\.tls\.key=.*/key\.pem cannot be read: No such file or directory"),
        ("ca", "hello", r"transport\.tls\.ca=.*/ca\.pem is not a file in PEM format"),
    ],
)
def test_unreadable_files_are_refused_before_anything_starts(
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
