"""A background thread that dies is heard of, wherever one runs."""

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
from workers.comm.transports.grpc import end as grpc_end
from workers.comm.transports.grpc import link as grpc
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.torch_distributed import end as torch_distributed_end
from workers.comm.transports.torch_distributed import link as torch_distributed
from workers.comm.transports.torch_distributed import sender as sending
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect
from workers.launch.record_files import RecordFollower, record_file
from workers.runtime.job import Job
from workers.system.background import background
from workers.tracking.early_stopping import Stop
from workers.tracking.monitor import Monitor

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def boom(*_: object, **__: object) -> Any:
    raise TypeError("boom")


def how_it_died(error: BaseException) -> Exception:
    """What is heard of a thread that raises this."""
    heard: list[Exception] = []

    def work() -> None:
        raise error

    thread = background("worker-bee", work, heard.append)
    thread.start()
    thread.join(20)
    (found,) = heard
    return found


@pytest.mark.parametrize("error", [PeerTimeout("silent"), OSError("disk full"), MemoryError()])
def test_an_error_that_tells_what_is_wrong_is_passed_on_as_it_is(error: Exception) -> None:
    assert how_it_died(error) is error


@pytest.mark.parametrize(("error", "said"), [(TypeError("boom"), "TypeError: boom"), (SystemExit(0), "SystemExit: 0")])
def test_any_other_error_names_the_thread_and_its_traceback_is_logged(
    error: BaseException, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = how_it_died(error)
    assert (type(found), str(found)) == (ThreadDied, f"its thread worker-bee ended with {said}")
    assert found.__cause__ is error
    assert "in work\n" in caplog.text


def test_all_threads_are_started_in_this_way() -> None:
    files = Path(workers.__file__).parent.rglob("*.py")
    assert [f.name for f in files if re.search(r"\bThread\(|ThreadPoolExecutor\(|Timer\(", f.read_text())] == [
        "background.py"
    ]


def hand(stage: int) -> Handshake:
    return Handshake(PROTOCOL_VERSION, "run", stage, 2, "print", 0, 1)


def link(kind: str) -> tuple[ChannelEnd, ChannelEnd, Any]:
    """The end of stage 0, that of stage 1, and its listener."""
    make, connect = {
        "grpc": (GrpcListener, grpc_connect), "torch": (TorchDistributedListener, torch_distributed_connect)
    }[kind]  # fmt: skip
    listener = make(handshake=hand(1), timeout_s=2)
    first = connect(listener.address, hand(0), timeout_s=20)
    return first, listener.accept(20), listener


@pytest.mark.parametrize(("kind", "module", "name", "thread"), [
    ("grpc", grpc_end, "decode", "dni-reader"), ("torch", torch_distributed_end, "unpack", "dni-read")
])  # fmt: skip
def test_a_reader_of_a_link_that_dies_is_met_by_whoever_receives(
    kind: str, module: Any, name: str, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, listener = link(kind)
    with closing(listener), closing(first):
        monkeypatch.setattr(module, name, boom)
        first.send(Frame(Kind.END, 1, sequence=1, stage=0))
        with pytest.raises(ThreadDied, match=f"its thread {thread} ended with TypeError: boom"):
            second.receive(20)


def test_a_frame_that_cannot_leave_is_met_by_its_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, listener = link("grpc")
    with closing(listener), closing(first):
        monkeypatch.setattr(grpc_end.GrpcEnd, "_encoded", boom)
        first.send(Frame(Kind.END, 1, sequence=1, stage=0))
        with pytest.raises(ThreadDied, match="its thread dni-sender ended with TypeError: boom"):
            first.receive(20)


def test_the_thread_that_keeps_what_is_sent_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, listener = link("torch")
    with closing(listener), closing(first):
        monkeypatch.setattr(sending, "wait", boom)
        first.send(Frame(Kind.END, 1, sequence=1, stage=0))
        with pytest.raises(ThreadDied, match="its thread dni-keep ended with TypeError: boom"):
            first.receive(20)


@pytest.mark.parametrize(("kind", "module", "thread"), [
    ("grpc", grpc, "dni-call"), ("torch", torch_distributed, "dni-listener")
])  # fmt: skip
def test_a_listener_whose_thread_dies_is_met_by_whoever_waits_for_a_stage(
    kind: str, module: Any, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree = module.agree

    def agree_or_die(client: Handshake, server: Handshake) -> None:
        (boom if threading.current_thread().name == thread else agree)(client=client, server=server)

    monkeypatch.setattr(module, "agree", agree_or_die)
    make, connect = {
        "grpc": (GrpcListener, grpc_connect), "torch": (TorchDistributedListener, torch_distributed_connect)
    }[kind]  # fmt: skip
    with closing(make(handshake=hand(1), timeout_s=2)) as listener:
        with pytest.raises(Exception):  # noqa: B017, PT011  # what the other side sees is the link's own affair
            connect(listener.address, hand(0), timeout_s=2)
        with pytest.raises(ThreadDied, match=f"its thread {thread} ended with TypeError: boom"):
            listener.accept(20)


@pytest.fixture
def gathering(tmp_path: Path) -> Iterator[tuple[RecordFollower, Stop]]:
    stop = Stop()
    with RecordFollower(Job(tiny(), tmp_path, print, stop)) as others:
        yield others, stop


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b"{}\n", b"\xff\n"])
def test_a_line_that_is_no_record_ends_the_first_stage_at_once(
    line: bytes, gathering: tuple[RecordFollower, Stop], tmp_path: Path
) -> None:
    others, stop = gathering
    with record_file(tmp_path, 1).open("ab") as file:
        file.write(json.dumps({"kind": "train", "step": 1}).encode() + b"\n" + line)
    assert stop.wait(20)  # so the first stage ends after the step under way, and then hears why
    with pytest.raises(WireError, match="stage 1 wrote a line that is not a record: b'"):
        others.until_ended(20)


def test_the_run_ends_if_the_thread_that_shows_it_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.tracking.monitor.IsolatedSink.show", boom)
    with Monitor(tmp_path, 2, 40, console=Console(file=StringIO())) as monitor:
        monitor({"kind": "train", "stage": 0, "step": 1})
        monitor._thread.join(20)
        with pytest.raises(ThreadDied, match="its thread monitor ended with TypeError: boom"):
            monitor({"kind": "train", "stage": 0, "step": 2})
