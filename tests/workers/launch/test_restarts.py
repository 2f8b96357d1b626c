"""Runs that start again, by themselves, after a stage was lost."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any, cast

import pytest

from dni.errors import EndedEarly, WorkerLost
from tests.support.commands import SMALL, Command, summary_of, trained_steps
from tests.support.runs import assert_same, parameters_of, tiny
from workers.launch.accept import Accepted
from workers.launch.launcher import launch
from workers.launch.restarts import Restarts
from workers.tracking.run import METRICS

#: Every step takes at least 40 ms.
SLOW = (*SMALL, "transport=grpc", "transport.delay_ms=20", "launch=processes", "steps=40", "checkpoint.every=10")
METHODS = {"locked": ("depth=backprop",), "lagged": ("depth=synthetic", "depth.lag=1")}

#: A model whose second stage ends its process at the fourth window, and its data.
BREAKS = """\
import os
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Breaks(nn.Linear):
    calls = 0

    def forward(self, x):
        Breaks.calls += x.requires_grad
        if Breaks.calls == 4:
            os._exit(3)
        return super().forward(x)

def model():
    return nn.Sequential(nn.Linear(20, 8), Breaks(8, 3))

def points(split):
    return TensorDataset(torch.eye(20).repeat(4, 1), torch.arange(80) % 3)
"""


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_whose_stage_is_killed_ends_as_it_would_have(method: str, tmp_path: Path) -> None:
    for name in ("whole", "restarted"):
        (tmp_path / name).mkdir()
    with Command(tmp_path / "whole", (*SLOW, *METHODS[method])) as command:
        assert command.finish().code == 0
        whole = command.run_dir()
    with Command(tmp_path / "restarted", (*SLOW, *METHODS[method], "launch.restarts=1")) as command:
        command.until_saved()
        os.kill(command.stages()[1], signal.SIGKILL)
        done = command.finish()
        restarted = command.run_dir()
    assert done.code == 0, done.err
    assert_same(parameters_of(whole, 2), parameters_of(restarted, 2))
    assert [trained_steps(restarted, k) for k in (0, 1)] == [list(range(5, 41, 5))] * 2
    assert (summary_of(whole)["restarts"], summary_of(restarted)["restarts"]) == (0, 1)
    assert any("killed by SIGKILL" in line and "(1 of 1 times)" in line for line in done.out)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_run_that_is_lost_twice_at_the_same_step_gives_up(tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text(BREAKS)
    typed = (
        "model=breaks.model", "data=breaks.points", "data.batch=4", "data.classes=3", "stages=2", "time=truncated",
        "depth=backprop", "transport=grpc", "launch=processes", "launch.torch_threads=1", "steps=40",
        "launch.restarts=5",
    )  # fmt: skip
    with Command(tmp_path, typed, environment={"PYTHONPATH": str(tmp_path)}) as command:
        done = command.finish()
    assert done.code == 1
    (line,) = done.err
    assert "stage 1, after step 0: its process ended with status 3" in line
    assert "not started again: it was lost at step 0 before" in line
    assert sum("starting again after step 0 (1 of 5 times)" in each for each in done.out) == 1


@pytest.fixture
def saved(tmp_path: Path) -> Accepted:
    """A run of 10 steps with a checkpoint of step 10."""
    config = tiny(checkpoint={"every": 5})
    launch(config, tmp_path)
    return Accepted(config, cast(Any, None), tmp_path, None, config.launch)


def note(accepted: Accepted, step: int) -> None:
    """Write the record of a step."""
    with (accepted.run_dir / METRICS).open("a") as file:
        file.write(f'{{"kind": "train", "stage": 0, "step": {step}}}\n')


def test_restarts_go_on_from_the_newest_checkpoint_until_they_are_used_up(saved: Accepted) -> None:
    restarts, error = Restarts(2), EndedEarly("stage 1: gone")
    for step in (12, 13):
        note(saved, step)
        going_on = restarts.after(saved, error)
        assert (going_on.config.resume, going_on.config.resume_step) == (str(saved.run_dir), 10)
    note(saved, 14)
    with pytest.raises(EndedEarly, match=r"^stage 1: gone; not started again: launch\.restarts=2 are used up$"):
        restarts.after(saved, error)
    assert restarts.count == 2


def test_the_same_step_is_not_tried_a_third_time(saved: Accepted) -> None:
    restarts, error = Restarts(5), WorkerLost("stage 1: gone")
    restarts.after(saved, error)
    with pytest.raises(WorkerLost, match="gone; not started again: it was lost at step 10 before"):
        restarts.after(saved, error)


def test_a_run_without_checkpoints_begins_again(saved: Accepted) -> None:
    shutil.rmtree(saved.run_dir / "checkpoints")
    assert Restarts(1).after(saved, WorkerLost("gone")).config.resume is None
    assert not (saved.run_dir / METRICS).exists()


def test_damaged_checkpoints_are_named(saved: Accepted) -> None:
    for file in saved.run_dir.glob("checkpoints/*/stage-1.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WorkerLost, match=r"gone; not started again: .*stage-1"):
        Restarts(1).after(saved, WorkerLost("gone"))


def test_without_restarts_the_error_is_raised_as_it_is(saved: Accepted) -> None:
    error = WorkerLost("gone")
    with pytest.raises(WorkerLost) as raised:
        Restarts(0).after(saved, error)
    assert raised.value is error
