"""What the system refuses ends as one line that says what to do; memory that it refuses is called so."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from pathlib import Path
from threading import Event

import pytest
import torch

from dni.errors import ConfigError, DniError, OutOfMemory, SystemRefused
from tests.support.commands import LOCAL, SMALL, settings
from workers.cli.train import exit_codes
from workers.launch import supervisor as processes
from workers.launch.cluster_environment import RankInfo
from workers.launch.launcher import launch
from workers.launch.supervisor import Supervisor
from workers.runtime.job import Job
from workers.system import errors as refusals
from workers.system.errors import about, as_refusal

NO_ROOM = OSError(errno.ENOSPC, "No space left on device", "/runs/1/metrics.jsonl")
LESS = "lower model.units, a predictor's hidden, data.batch or data.window, or run it where there is more memory"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (NO_ROOM, SystemRefused, "/runs/1/metrics.jsonl: No space left on device: free some space on that disk"),
        (
            OSError(errno.EROFS, "Read-only file system", "/cd/run"), SystemRefused,
            "/cd/run: Read-only file system: name another folder (hydra.run.dir=FOLDER)",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/run"), SystemRefused,
            "/root/run: Permission denied: have the permission given, or name another folder (hydra.run.dir=FOLDER)",
        ),
        (OSError(errno.EMFILE, "Too many open files"), SystemRefused,
         "Too many open files: raise the limit of open files (ulimit -n)"),
        (OSError(errno.EXDEV, "Invalid cross-device link"), SystemRefused, "Invalid cross-device link"),
        (RuntimeError("can't start new thread"), SystemRefused,
         "no new thread can be started: raise the limit of processes and threads (ulimit -u)"),
        (MemoryError(), OutOfMemory, f"out of memory: {LESS}"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemory,
         f"out of memory ([Errno 12] Cannot allocate memory): {LESS}"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 16000000000000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            OutOfMemory, f"out of memory (16.0 TB were asked for): {LESS}",
        ),
        (RuntimeError("could not create a primitive"), OutOfMemory,
         f"out of memory (could not create a primitive): {LESS}"),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which "
                "14.41 GiB is free."
            ),
            OutOfMemory, f"the GPU is out of memory (CUDA out of memory. Tried to allocate 20.00 GiB): {LESS}",
        ),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_refused_and_what_to_do(error: Exception, kind: type[DniError], said: str) -> None:
    refusal = as_refusal(error)
    assert type(refusal) is kind
    assert str(refusal) == said


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x"), ConfigError("y")]
)
def test_what_is_no_refusal_stays_what_it_is(error: Exception) -> None:
    assert as_refusal(error) is None


def test_a_file_that_the_system_does_not_name_is_named(tmp_path: Path) -> None:
    """/dev/full is a disk without room; the error of a write carries no name."""
    with (
        pytest.raises(OSError, match="No space left") as refused,
        about(tmp_path / "a"),
        open("/dev/full", "w") as full,
    ):
        full.write("x")
    assert refused.value.filename == str(tmp_path / "a")


def test_a_model_that_no_memory_holds_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*SMALL, *LOCAL, "model.units=10000000000000"), tmp_path / "run")
    assert left.value.code == 2
    assert re.fullmatch(rf"dni-train: out of memory \([\d,.]+ TB were asked for\): {LESS}\n", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("launch_mode", ["threads", "external"])
def test_memory_that_is_refused_to_a_stage_is_called_so(
    launch_mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*args: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr("workers.runtime.worker.Worker.train", step)
    rank_info = RankInfo(0, 1, "WORLD_SIZE", True, local=1) if launch_mode == "external" else None
    asked = settings(*SMALL, "stages=1", f"launch={launch_mode}", "transport=grpc", "steps=4")
    with pytest.raises(OutOfMemory) as refused:
        launch(asked, tmp_path / "run", rank_info)
    where = {"threads": "stage 0, step 1", "external": "stage 0"}[launch_mode]
    assert str(refused.value) == (
        f"{where}: out of memory (could not create a primitive): {LESS}; no complete checkpoint had been written "
        "(checkpoint.every sets how often)"
    )


def test_a_stage_that_the_system_has_killed_for_want_of_memory_is_told_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system counts whom it kills so."""
    kills = iter([3, 4])
    monkeypatch.setattr(processes, "memory_kills", lambda: next(kills))
    supervisor = Supervisor(Job(settings(*SMALL), tmp_path, lambda record: None, Event()))
    supervisor._note_exit(1, -signal.SIGKILL)
    assert supervisor.failures[0].kind is OutOfMemory
    assert supervisor.failures[0].reason.startswith("its process was killed, most likely by the system, which was out")
    assert refusals.memory_kills() >= 0


def test_a_background_thread_that_is_refused_a_file_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda ended: others.append(ended.exc_value))
    refusals.name_refusals_of_threads()

    def fail(error: Exception) -> None:
        raise error

    for error in (NO_ROOM, ValueError("a fault of its own")):
        thread = threading.Thread(target=fail, args=(error,), name="events")
        thread.start()
        thread.join()
    assert caplog.messages == [
        "events has ended: /runs/1/metrics.jsonl: No space left on device: free some space on that disk"
    ]
    assert [str(error) for error in others] == ["a fault of its own"]


def test_a_line_of_what_was_refused_ends_the_command_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra makes the folder and writes into it, before and after the run."""
    with pytest.raises(SystemExit) as left, exit_codes():
        raise NO_ROOM
    assert left.value.code == 2
    assert capsys.readouterr().err == f"dni-train: {as_refusal(NO_ROOM)}\n"
    assert os.strerror(errno.ENOSPC) in str(as_refusal(NO_ROOM))
