"""What the system refuses ends as one line that says what to do, and what is left of the run."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import torch

from dni.errors import ConfigError, DniError, OutOfMemory, SystemRefused
from tests.support.commands import LOCAL, SMALL, run, settings
from workers.cli.evaluate import main as evaluate
from workers.cli.train import exit_codes
from workers.launch import supervisor as processes
from workers.launch.cluster_environment import Seat
from workers.launch.launcher import launch
from workers.launch.supervisor import Supervisor
from workers.runtime.job import Job
from workers.storage import checkpoint
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


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """No file may be longer, here and in the processes that are started: the system refuses to write on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


TOO_LARGE = r"File too large: raise the limit of a file's size \(ulimit -f\)"


class NoBoard:
    """In the place of TensorBoard, whose thread would end by an error of its own."""

    def __init__(self, run_dir: Path) -> None:
        pass

    def show(self, record: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_metrics_that_cannot_be_written_end_the_run_with_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints of this size still fit. `launch=threads`."""
    monkeypatch.setattr("workers.tracking.monitor.Board", NoBoard)
    asked = settings(*SMALL, *LOCAL, "steps=100000", "log_every=1", "checkpoint.every=5", "model.units=2")
    with files_of_at_most(20_000), pytest.raises(SystemRefused) as refused:
        launch(asked, tmp_path / "run")
    last = checkpoint.complete_steps(tmp_path / "run")[-1]
    assert re.fullmatch(
        rf"stage \d, step \d+: {tmp_path}/run/metrics\.jsonl: {TOO_LARGE}; last complete checkpoint: "
        rf"{checkpoint.folder_of(tmp_path / 'run', last)}; go on with: dni-train resume={tmp_path}/run",
        str(refused.value),
    )


def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_processes(tmp_path: Path) -> None:
    with files_of_at_most(5_000), pytest.raises(SystemRefused) as refused:
        launch(settings(*SMALL, "stages=1", "launch=processes", "steps=10", "model.units=64"), tmp_path / "run")
    assert re.fullmatch(
        rf"stage 0, after step 10: {tmp_path}/run/checkpoints/step-00000010/stage-0\.safetensors: {TOO_LARGE}; no "
        r"complete checkpoint had been written \(checkpoint\.every sets how often\)",
        str(refused.value),
    )
    assert [path.name for path in checkpoint.folder_of(tmp_path / "run", 10).iterdir()] == []  # it had taken space


def test_the_same_where_an_engine_has_started_the_stages(tmp_path: Path) -> None:
    seat = Seat(0, 1, "WORLD_SIZE", True, local=1)
    asked = settings(*SMALL, "stages=1", "launch=external", "steps=4", "model.units=64")
    with files_of_at_most(5_000), pytest.raises(SystemRefused) as refused:
        launch(asked, tmp_path / "run", seat)
    assert re.match(rf"stage 0: {tmp_path}/run/checkpoints/.*{TOO_LARGE}; no complete checkpoint", str(refused.value))


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
    seat = Seat(0, 1, "WORLD_SIZE", True, local=1) if launch_mode == "external" else None
    asked = settings(*SMALL, "stages=1", f"launch={launch_mode}", "transport=grpc", "steps=4")
    with pytest.raises(OutOfMemory) as refused:
        launch(asked, tmp_path / "run", seat)
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


def test_a_folder_that_cannot_be_made_is_refused_by_the_command_itself(tmp_path: Path) -> None:
    done = run(tmp_path, "hydra.run.dir=/proc/x/y")
    assert (done.code, done.out) == (2, [])
    assert done.err == ["dni-train: /proc/x: No such file or directory: name another folder (hydra.run.dir=FOLDER)"]


@pytest.mark.parametrize("folder", ["/proc/x/y", "/dev/null/run"])
def test_a_folder_that_cannot_be_made_is_refused_in_one_line(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*SMALL, *LOCAL, "steps=2"), Path(folder))
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dni-train: /")
    assert line.endswith("name another folder (hydra.run.dir=FOLDER)")


def test_an_evaluation_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch(settings(*SMALL, *LOCAL, "steps=2", "stages=1"), tmp_path / "run")
    (tmp_path / "run" / "evaluation-valid.json").symlink_to("/dev/full")
    assert evaluate([str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"dni-evaluate: {tmp_path}/run/evaluation-valid.json: No space left on device: free some space on that disk"
    ]


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
