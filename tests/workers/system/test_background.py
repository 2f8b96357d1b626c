"""The death of a background thread is reported, wherever the thread runs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import workers
from dni.errors import PeerTimeout, ThreadDied, WireError
from tests.support.runs import tiny
from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc import call as grpc_call
from workers.comm.transports.grpc import end as grpc_end
from workers.comm.transports.grpc import link as grpc
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.torch_distributed import end as torch_distributed_end
from workers.comm.transports.torch_distributed import link as torch_distributed
from workers.comm.transports.torch_distributed import sender
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect
from workers.launch.record_files import RecordFollower, record_file
from workers.runtime.job import Job
from workers.system.background import background
from workers.tracking.early_stopping import Stop
from workers.tracking.monitor import Monitor

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def boom(*_: object, **__: object) -> Any:
    raise TypeError("boom")


def reported_error(error: BaseException) -> Exception:
    """Return the error that `background` reports for a thread that raises `error`."""
    errors: list[Exception] = []

    def work() -> None:
        raise error

    thread = background("worker-bee", work, errors.append)
    thread.start()
    thread.join(20)
    (found,) = errors
    return found


@pytest.mark.parametrize("error", [PeerTimeout("silent"), OSError("disk full"), MemoryError()])
def test_a_self_explanatory_error_is_reported_unchanged(error: Exception) -> None:
    assert reported_error(error) is error


@pytest.mark.parametrize(
    ("error", "message"), [(TypeError("boom"), "TypeError: boom"), (SystemExit(0), "SystemExit: 0")]
)
def test_any_other_error_names_the_thread_and_its_traceback_is_logged(
    error: BaseException, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = reported_error(error)
    assert (type(found), str(found)) == (ThreadDied, f"its thread worker-bee ended with {message}")
    assert found.__cause__ is error
    assert "in work\n" in caplog.text


def test_every_thread_is_started_with_background() -> None:
    files = Path(workers.__file__).parent.rglob("*.py")
    assert [f.name for f in files if re.search(r"\bThread\(|ThreadPoolExecutor\(|Timer\(", f.read_text())] == [
        "background.py"
    ]


def handshake(stage: int) -> Handshake:
    return Handshake(PROTOCOL_VERSION, "run", stage, 2, "print", 0, 1)


def open_link(kind: str) -> tuple[ChannelEnd, ChannelEnd, Any]:
    """The end of stage 0, that of stage 1, and its listener."""
    make, connect = {
        "grpc": (GrpcListener, grpc_connect), "torch": (TorchDistributedListener, torch_distributed_connect)
    }[kind]  # fmt: skip
    listener = make(handshake=handshake(1), settings=LinkSettings(timeout_s=2))
    end_0 = connect(listener.address, handshake(0), settings=LinkSettings(timeout_s=20))
    return end_0, listener.accept(20), listener


@pytest.mark.parametrize(("kind", "module", "name", "thread"), [
    ("grpc", grpc_end, "decode", "dni-reader"), ("torch", torch_distributed_end, "unpack", "dni-read")
])  # fmt: skip
def test_the_death_of_a_reader_thread_is_raised_by_receive(
    kind: str, module: Any, name: str, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_0, end_1, listener = open_link(kind)
    with closing(listener), closing(end_0):
        monkeypatch.setattr(module, name, boom)
        end_0.send(Frame(Kind.END, 1, sequence=1, stage=0))
        with pytest.raises(ThreadDied, match=f"its thread {thread} ended with TypeError: boom"):
            end_1.receive(20)


def test_an_error_while_sending_is_raised_at_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    end_0, _, listener = open_link("grpc")
    with closing(listener), closing(end_0):
        monkeypatch.setattr(grpc_call.Message, "data", boom)
        end_0.send(Frame(Kind.END, 1, sequence=1, stage=0))
        with pytest.raises(ThreadDied, match="its thread dni-sender ended with TypeError: boom"):
            end_0.receive(20)


def test_the_death_of_the_sender_thread_is_raised_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    end_0, _, listener = open_link("torch")
    with closing(listener), closing(end_0):
        monkeypatch.setattr(sender, "wait", boom)
        end_0.send(Frame(Kind.END, 1, sequence=1, stage=0))
        with pytest.raises(ThreadDied, match="its thread dni-send ended with TypeError: boom"):
            end_0.receive(20)


@pytest.mark.parametrize(("kind", "module", "thread"), [
    ("grpc", grpc, "dni-call"), ("torch", torch_distributed, "dni-listener")
])  # fmt: skip
def test_the_death_of_a_listener_thread_is_raised_by_accept(
    kind: str, module: Any, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree = module.agree

    def agree_or_die(client: Handshake, server: Handshake) -> None:
        (boom if threading.current_thread().name == thread else agree)(client=client, server=server)

    monkeypatch.setattr(module, "agree", agree_or_die)
    make, connect = {
        "grpc": (GrpcListener, grpc_connect), "torch": (TorchDistributedListener, torch_distributed_connect)
    }[kind]  # fmt: skip
    with closing(make(handshake=handshake(1), settings=LinkSettings(timeout_s=2))) as listener:
        with pytest.raises(Exception):  # noqa: B017, PT011  # which error the client gets depends on the transport
            connect(listener.address, handshake(0), settings=LinkSettings(timeout_s=2))
        with pytest.raises(ThreadDied, match=f"its thread {thread} ended with TypeError: boom"):
            listener.accept(20)


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[tuple[RecordFollower, Stop]]:
    stop = Stop()
    with RecordFollower(Job(tiny(), tmp_path, print, stop)) as follower:
        yield follower, stop


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b"{}\n", b"\xff\n"])
def test_a_line_that_is_not_a_record_stops_the_first_stage(
    line: bytes, followed: tuple[RecordFollower, Stop], tmp_path: Path
) -> None:
    follower, stop = followed
    with record_file(tmp_path, 1).open("ab") as file:
        file.write(json.dumps({"kind": "train", "step": 1}).encode() + b"\n" + line)
    assert stop.wait(20)  # the first stage ends after the current step, then raises the error
    with pytest.raises(WireError, match="stage 1 wrote a line that is not a record: b'"):
        follower.until_ended(20)


def test_the_run_ends_if_the_monitor_thread_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.tracking.monitor.IsolatedSink.show", boom)
    with Monitor(tmp_path, 2, 40, console=Console(file=StringIO())) as monitor:
        monitor({"kind": "train", "stage": 0, "step": 1})
        monitor._thread.join(20)
        with pytest.raises(ThreadDied, match="its thread monitor ended with TypeError: boom"):
            monitor({"kind": "train", "stage": 0, "step": 2})
