"""Runs that go on while one of their stages starts again: real processes, killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import SMALL, Command, alive, children, last_step, summary_of, trained_steps
from tests.support.runs import assert_same
from workers.storage import checkpoint
from workers.tracking.run import METRICS

#: A stage's start takes seconds, and minutes on a machine that is busy: every wait is long.
LONG_S = 400.0
FOUR = (
    *SMALL, "stages=4", "model.layers=2", "transport=grpc", "launch=processes", "transport.timeout_s=300",
    "transport.keepalive_s=100", "tensorboard=false", "log_every=1", "checkpoint.every=10", "checkpoint.keep=10000",
    "launch.restarts=2", "emulate.forward_ms=10",
)  # fmt: skip

#: A model whose second stage ends its process at the fourth window, and at every start after that; and its data.
BREAKS = """\
import os
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Breaks(nn.Linear):
    calls = 0

    def forward(self, x):
        Breaks.calls += x.requires_grad
        if Breaks.calls == 4 or (Path("broken").exists() and x.device.type == "cpu"):
            Path("broken").touch()
            os._exit(3)
        return super().forward(x)

def model():
    return nn.Sequential(nn.Linear(20, 8), Breaks(8, 3))

def points(split):
    return TensorDataset(torch.eye(20).repeat(4, 1), torch.arange(80) % 3)
"""


def records_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]


def moves(run_dir: Path, step: int, stage: int) -> int:
    """Return how many optimizer steps a stage has taken, by its checkpoint."""
    state = checkpoint.load(run_dir, step, stage)["stage"]["optimizer"]["state"]
    return int(next(iter(state.values()))["step"])


@pytest.mark.long
@pytest.mark.timeout(3 * LONG_S)
@pytest.mark.parametrize("depth", ["synthetic", "local", "corrected"])
def test_a_stage_that_is_killed_comes_back_while_the_others_go_on(depth: str, tmp_path: Path) -> None:
    with Command(tmp_path, (*FOUR, f"depth={depth}", "steps=1000000")) as command:
        command.until(lambda: last_step(tmp_path) >= 25, "step 25", LONG_S)
        run_dir, before = command.run_dir(), command.stages()
        (spare,) = {*children(command.process.pid)} - {*before.values()}
        os.kill(before[1], signal.SIGKILL)

        def back() -> dict[str, Any] | None:
            lines = (run_dir / METRICS).read_text().splitlines(True)
            return next((json.loads(line) for line in lines if '"rejoined"' in line and line.endswith("\n")), None)

        command.until(lambda: back() is not None, "the stage is back", LONG_S)
        rejoined = back()
        assert rejoined is not None
        command.until(lambda: last_step(tmp_path) >= rejoined["step"] + 50, "50 further steps", LONG_S)
        after = command.stages()
        command.process.send_signal(signal.SIGINT)
        done = command.finish(LONG_S)
    assert done.code == 130, done.err
    assert after == before | {1: spare}
    assert not alive(spare)
    records, summary = records_of(run_dir), summary_of(run_dir)
    last, first = summary["steps"], rejoined["step"]
    trained = [trained_steps(run_dir, k) for k in range(4)]
    assert trained[0] == list(range(1, last + 1))
    for k in (1, 2, 3):  # without input there is no step, and none is taken twice
        assert sorted(set(trained[k])) == trained[k]
        assert trained[k][-1] == last
        assert set(range(first, last + 1)) <= set(trained[k])
    place = records.index(rejoined)
    alone = [r["step"] for r in records[:place] if r["kind"] == "train" and r["stage"] == 0 and r["step"] > 40]
    assert len(alone) >= 10, "the first stage went on"
    ends = {stage["index"]: stage for stage in summary["stage"]}
    saved = first - 1 - ends[1]["missed_steps"]
    assert saved in (10, 20, 30, 40)
    assert moves(run_dir, last, 1) - moves(run_dir, saved, 1) == last - first + 1
    assert ends[0]["skipped_steps"] >= len(alone)
    assert (summary["restarts"], ends[1]["restarts"], "restarts" in ends[2]) == (1, 1, False)
    losses = [r["loss"] for r in records if r["kind"] == "train" and r["stage"] == 3]
    assert sum(losses[-10:]) / 10 < losses[0]


@pytest.mark.long
@pytest.mark.timeout(3 * LONG_S)
def test_the_end_of_a_run_waits_for_its_last_stage(tmp_path: Path) -> None:
    with Command(tmp_path, (*FOUR, "depth=synthetic", "steps=80")) as command:
        command.until(lambda: last_step(tmp_path) >= 25, "step 25", LONG_S)
        os.kill(command.stages()[3], signal.SIGKILL)
        done = command.finish(LONG_S)
        run_dir = command.run_dir()
    assert done.code == 0, done.err
    assert any("its process was killed by SIGKILL; it starts again alone" in line for line in done.out)
    assert [trained_steps(run_dir, k) for k in range(3)] == [list(range(1, 81))] * 3
    (rejoined,) = [record for record in records_of(run_dir) if record["kind"] == "rejoined"]
    end = summary_of(run_dir)["stage"][3]
    saved = rejoined["step"] - (rejoined["step"] in trained_steps(run_dir, 3)) - end["missed_steps"]
    if rejoined["step"] not in trained_steps(run_dir, 3):  # as its start takes longer than the steps that were left
        kept, final = (checkpoint.load(run_dir, step, 3)["stage"]["module"] for step in (saved, 80))
        assert_same(kept, final)
    assert checkpoint.newest_whole(run_dir) == 80


@pytest.mark.long
@pytest.mark.timeout(3 * LONG_S)
def test_a_stage_that_is_lost_again_at_once_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text(BREAKS)
    typed = (
        "model=breaks.model", "data=breaks.points", "data.batch=4", "data.classes=3", "stages=2", "time=truncated",
        "depth=synthetic", "transport=grpc", "launch=processes", "launch.torch_threads=1", "steps=1000000",
        "launch.restarts=5", "transport.timeout_s=300", "tensorboard=false",
    )  # fmt: skip
    with Command(tmp_path, typed, environment={"PYTHONPATH": str(tmp_path)}) as command:
        done = command.finish(LONG_S)
    assert done.code == 1
    (line,) = done.err
    assert "stage 1, after step " in line
    assert "its process ended with status 3 before its work was done" in line
    assert "not started again: it was lost at step" in line
    assert sum("it starts again alone" in each for each in done.out) >= 1
