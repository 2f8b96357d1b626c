"""Unix sockets between stages on one machine: their folder, its permissions and its removal."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from dni.errors import ConfigError
from tests.support.runs import assert_same, parameters_of, tiny
from workers.comm.address import LONGEST_PATH, check_address, socket_folder
from workers.comm.transports.grpc import link
from workers.comm.transports.grpc.link import GrpcListener
from workers.launch.launcher import launch


def test_only_this_user_may_enter_the_folder_and_it_is_removed() -> None:
    with socket_folder() as folder:
        assert folder is not None
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.getuid()
        (folder / "stage-1").touch()
    assert not folder.exists()


def test_a_folder_with_too_long_socket_paths_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_folder = tmp_path / ("x" * LONGEST_PATH)
    long_folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long_folder))
    with socket_folder() as folder:
        assert folder is None
    assert not list(long_folder.iterdir())


@pytest.mark.parametrize("path", ["stage-1", "", "/" + LONGEST_PATH * "x"])
def test_an_invalid_socket_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=f"absolute path of at most {LONGEST_PATH} bytes: set TMPDIR"):
        check_address(f"unix:{path}", private=False)


def test_the_longest_path_is_allowed() -> None:
    longest = "unix:/" + (LONGEST_PATH - 1) * "x"
    assert check_address(longest, private=False) == longest


@pytest.mark.parametrize(("bind", "scheme"), [("auto", "unix:"), ("127.0.0.1:0", "127.0.0.1:")])
def test_a_run_on_one_machine_uses_unix_sockets_by_default(
    bind: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []

    class RecordingListener(GrpcListener):
        def accept(self, timeout: float):  # type: ignore[no-untyped-def]
            addresses.append(self.address)
            return super().accept(timeout)

    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.setattr(link, "GrpcListener", RecordingListener)
    same = {"depth": {"method": "backprop"}, "steps": 3}
    launch(tiny(**same, transport={"kind": "grpc", "bind": bind}), tmp_path / "run")
    assert [address.startswith(scheme) for address in addresses] == [True]
    assert not list((tmp_path / "t").glob("dni-*"))
    launch(tiny(**same), tmp_path / "local")
    assert_same(parameters_of(tmp_path / "run", 2), parameters_of(tmp_path / "local", 2))
