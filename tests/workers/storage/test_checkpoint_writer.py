"""Checkpoints that are written beside the loop: a copy of the state, one write at a time, errors that are not lost."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import SystemRefused, ThreadDied
from tests.support.runs import tiny
from tests.support.workers.checkpoints import TREE, same
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.storage.checkpoint_writer import CheckpointWriter

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Disk:
    """A disk that writes once it may, and counts the writes that are under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may, self.begun = threading.Event(), threading.Event()
        self.now = self.most = 0
        self._write = checkpoint.write
        monkeypatch.setattr(checkpoint, "write", self)

    def __call__(self, *arguments: Any) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.begun.set()
        assert self.may.wait(20)
        self._write(*arguments)
        self.now -= 1


def test_the_state_of_the_call_is_written_though_it_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, saved = Disk(monkeypatch), threading.Event()
    weight = torch.arange(6.0).view(2, 3)
    state = {**TREE, "weight": weight.t(), "row": weight[1], "list": [1, {"a": 2}]}
    expected = {**TREE, "weight": weight.t().clone(), "row": weight[1].clone(), "list": [1, {"a": 2}]}
    with CheckpointWriter(tmp_path, 2) as writer:
        writer.save(7, {0: state, 1: {"n": 1}}, saved.set)
        weight.fill_(-1.0)
        state["list"][1]["a"] = 3
        assert disk.begun.wait(20)
        assert not saved.is_set()
        assert checkpoint.complete_steps(tmp_path) == []
        disk.may.set()
        writer.finish()
        assert saved.is_set()
    assert checkpoint.complete_steps(tmp_path) == [7]
    assert same(expected, checkpoint.load(tmp_path, 7, 0, 2))
    assert checkpoint.load(tmp_path, 7, 1, 2) == {"n": 1}


def test_one_write_at_a_time_and_all_are_written_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, saved = Disk(monkeypatch), list[int]()
    threading.Timer(0.05, disk.may.set).start()
    with CheckpointWriter(tmp_path, 1) as writer:
        for step in (1, 2, 3):
            writer.save(step, {0: {"n": step}}, lambda step=step: saved.append(step))  # type: ignore[misc]
    assert (saved, disk.most) == ([1, 2, 3], 1)
    assert checkpoint.complete_steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), RuntimeError("odd")])
def test_a_failed_write_is_raised_in_the_loop_and_not_reported_as_saved(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "write", fails)
    saved = threading.Event()
    writer, kind = CheckpointWriter(tmp_path, 1), type(error) if isinstance(error, OSError) else ThreadDied
    writer.save(1, {0: {}}, saved.set)
    for act in (writer.finish, writer.check, lambda: writer.save(2, {0: {}}, saved.set)):
        with pytest.raises(kind):
            act()
    with pytest.raises(kind), writer:
        pass
    with pytest.raises(ZeroDivisionError), writer:  # the loop's own error comes first
        raise ZeroDivisionError
    assert not saved.is_set()


def test_a_run_ends_with_the_error_of_its_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps after the checkpoint may have been taken by then."""
    write = checkpoint.write

    def full(run_dir: Path, stage: int, stages: int, step: int, state: Any) -> None:
        if (stage, step) == (1, 20):
            raise OSError(errno.ENOSPC, "No space left on device", "stage-1.safetensors")
        write(run_dir, stage, stages, step, state)

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(SystemRefused) as refused:
        launch(tiny(steps=10**6, checkpoint={"every": 10}), tmp_path)
    message = str(refused.value)
    assert message.startswith("stage 1, step 2")
    assert "stage-1.safetensors: No space left on device: free some space on that disk; last complete" in message
    assert message.endswith(f"/checkpoints/step-00000010; resume with: dni-train resume={tmp_path}")
    assert checkpoint.complete_steps(tmp_path) == [10]
