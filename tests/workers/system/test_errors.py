"""Errors of the system end as one line with a remedy; lack of memory is named."""

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

DISK_FULL = OSError(errno.ENOSPC, "No space left on device", "/runs/1/metrics.jsonl")
LESS = "lower model.units, a predictor's hidden, data.batch or data.window, or run it where there is more memory"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (DISK_FULL, SystemRefused, "/runs/1/metrics.jsonl: No space left on device: free some space on that disk"),
        (
            OSError(errno.EROFS, "Read-only file system", "/cd/run"), SystemRefused,
            "/cd/run: Read-only file system: name another folder (hydra.run.dir=FOLDER)",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/run"), SystemRefused,
            "/root/run: Permission denied: get the permission, or name another folder (hydra.run.dir=FOLDER)",
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
            OutOfMemory, f"out of memory (16.0 TB were requested): {LESS}",
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
def test_an_error_of_the_system_names_its_cause_and_a_remedy(
    error: Exception, kind: type[DniError], message: str
) -> None:
    refusal = as_refusal(error)
    assert type(refusal) is kind
    assert str(refusal) == message


def test_a_kernel_that_the_processor_lacks_is_no_lack_of_memory() -> None:
    assert as_refusal(RuntimeError("could not create a primitive descriptor for the LSTM forward propagation")) is None


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x"), ConfigError("y")]
)
def test_other_errors_are_not_converted(error: Exception) -> None:
    assert as_refusal(error) is None


def test_about_adds_a_missing_file_name(tmp_path: Path) -> None:
    """/dev/full acts as a full disk; errors of write carry no file name."""
    with (
        pytest.raises(OSError, match="No space left") as refused,
        about(tmp_path / "a"),
        open("/dev/full", "w") as full,
    ):
        full.write("x")
    assert refused.value.filename == str(tmp_path / "a")


def test_a_model_larger_than_memory_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited, exit_codes():
        launch(settings(*SMALL, *LOCAL, "model.units=10000000000000"), tmp_path / "run")
    assert exited.value.code == 2
    assert re.fullmatch(rf"dni-train: out of memory \([\d,.]+ TB were requested\): {LESS}\n", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("launch_mode", ["threads", "external"])
def test_lack_of_memory_in_a_stage_is_named(launch_mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*args: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr("workers.runtime.worker.Worker.train", step)
    rank_info = RankInfo(0, 1, "WORLD_SIZE", True, local=1) if launch_mode == "external" else None
    config = settings(*SMALL, "stages=1", f"launch={launch_mode}", "transport=grpc", "steps=4")
    with pytest.raises(OutOfMemory) as refused:
        launch(config, tmp_path / "run", rank_info)
    where = {"threads": "stage 0, step 1", "external": "stage 0"}[launch_mode]
    assert str(refused.value) == (
        f"{where}: out of memory (could not create a primitive): {LESS}; no complete checkpoint had been written "
        "(checkpoint.every sets how often)"
    )


def test_a_stage_killed_for_lack_of_memory_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system counts such kills."""
    kills = iter([3, 4])
    monkeypatch.setattr(processes, "memory_kills", lambda: next(kills))
    supervisor = Supervisor(Job(settings(*SMALL), tmp_path, lambda record: None, Event()))
    supervisor._note_exit(1, -signal.SIGKILL)
    assert supervisor.failures[0].kind is OutOfMemory
    assert supervisor.failures[0].reason.startswith(
        "its process was killed, most likely by the system for lack of memory"
    )
    assert refusals.memory_kills() >= 0


def test_an_error_of_the_system_in_a_background_thread_is_logged_as_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda ended: others.append(ended.exc_value))
    refusals.name_refusals_of_threads()

    def fail(error: Exception) -> None:
        raise error

    for error in (DISK_FULL, ValueError("a fault of its own")):
        thread = threading.Thread(target=fail, args=(error,), name="events")
        thread.start()
        thread.join()
    assert caplog.messages == [
        "events has ended: /runs/1/metrics.jsonl: No space left on device: free some space on that disk"
    ]
    assert [str(error) for error in others] == ["a fault of its own"]


def test_an_error_of_the_system_ends_the_command_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra makes the run folder and writes into it, so such errors also come before and after the run."""
    with pytest.raises(SystemExit) as exited, exit_codes():
        raise DISK_FULL
    assert exited.value.code == 2
    assert capsys.readouterr().err == f"dni-train: {as_refusal(DISK_FULL)}\n"
    assert os.strerror(errno.ENOSPC) in str(as_refusal(DISK_FULL))
