"""A stage that misses training steps, and one that is started again, without processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.loss_function import Judgement
from tests.support.runs import assert_same, tiny
from workers.build.data import resolve
from workers.comm.frame import Frame, Kind
from workers.comm.lasting.replaceable_end import ReplaceableEnd
from workers.comm.lasting.upstream import LastingUpstream
from workers.comm.transports.local import local_channel
from workers.runtime.assembly import assemble
from workers.runtime.job import Job
from workers.runtime.worker import Worker
from workers.storage import checkpoint
from workers.tracking.early_stopping import Stop

RATE = 1e-3
SETTINGS: dict[str, Any] = {
    "transport": {"kind": "grpc"}, "launch": {"mode": "processes", "restarts": 1, "torch_threads": 1},
    "optimizer": {"learning_rate": RATE, "schedule": {"kind": "cosine"}}, "steps": 100,
}  # fmt: skip


class LastStage:
    """The last of two stages, and the other end of its link. `records` are those it sends."""

    def __init__(self, run_dir: Path, incarnation: int = 0) -> None:
        self.records: list[dict[str, Any]] = []
        self.other, mine = local_channel(64)
        end = ReplaceableEnd("stage 0")
        end.offer(mine)
        end.renew()
        job = Job(resolve(tiny(**SETTINGS))[0], run_dir, self.records.append, Stop(), incarnation=incarnation)
        self.worker: Worker = assemble(job, 1, end, None)
        assert isinstance(self.worker.upstream, LastingUpstream)
        self.upstream: LastingUpstream = self.worker.upstream

    def save(self, step: int) -> None:
        """Write this stage's part of a checkpoint."""
        self.worker.writer.save(step, {1: self.worker.state_dict()}, lambda: None)
        self.worker.writer.finish()

    @property
    def rate(self) -> float:
        return float(self.worker.stage.optimizer.param_groups[0]["lr"])

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.worker.stage.module.state_dict().items()}


def cosine(step: int) -> float:
    return RATE * (1 + math.cos(math.pi * step / 100)) / 2


def test_steps_that_did_not_come_count_for_the_schedule_and_carried_state_is_forgotten(tmp_path: Path) -> None:
    stage = LastStage(tmp_path)
    stage.worker.stage.state = (torch.ones(2, 4, 8),)
    assert stage.rate == pytest.approx(cosine(0))
    stage.upstream.on_gap(30)
    assert stage.rate == pytest.approx(cosine(30))
    assert stage.worker.stage.state is None


def test_a_validation_pass_that_was_cut_off_is_not_recorded(tmp_path: Path) -> None:
    stage = LastStage(tmp_path)
    recorder = stage.worker.recorder
    recorder.validation(4, Judgement(10.0, 1, 5))
    stage.upstream.on_gap(1)
    recorder.validation(8, Judgement(20.0, 2, 5))
    with recorder.handling(Frame(Kind.CHECKPOINT, 8)):
        pass
    (valid,) = stage.records
    assert (valid["kind"], valid["step"], valid["loss"]) == ("valid", 8, 4.0)


def test_a_stage_that_is_started_again_loads_its_own_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LastStage(tmp_path)
    beginning = first.parameters
    assert_same(LastStage(tmp_path, incarnation=1).parameters, beginning)  # without a checkpoint
    for step in (10, 20):
        with torch.no_grad():
            for parameter in first.worker.stage.module.parameters():
                parameter.add_(1.0)
        monkeypatch.setattr("workers.runtime.recorder.time.time", lambda: 1000.0)
        first.save(step)  # the checkpoint lacks stage 0
    monkeypatch.setattr("workers.runtime.recorder.time.time", lambda: 1007.0)
    again = LastStage(tmp_path, incarnation=1)
    assert_same(again.parameters, first.parameters)
    assert (again.upstream.newest, again.rate) == (20, pytest.approx(cosine(20)))
    tally = again.worker.recorder.tally
    assert (tally.wall_s, tally.blocked_s) == (7.0, 7.0)  # the run went on meanwhile
    assert_same(LastStage(tmp_path).parameters, beginning)  # a run that begins does not


def test_a_damaged_checkpoint_of_a_stage_is_passed_over(tmp_path: Path) -> None:
    stage = LastStage(tmp_path)
    for step in (10, 20):
        stage.save(step)
    damaged = checkpoint.folder_of(tmp_path, 20) / "stage-1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert LastStage(tmp_path, incarnation=1).upstream.newest == 10
    assert checkpoint.newest_part(tmp_path, 1, after=10) is None
    assert checkpoint.newest_part(tmp_path, 0, after=0) is None


def test_old_checkpoints_that_lack_a_stage_are_pruned_if_asked(tmp_path: Path) -> None:
    state = {"x": torch.ones(1)}
    for step, stages in ((10, (0,)), (20, (0, 1)), (30, (0,)), (40, (0, 1)), (50, (1,))):
        for stage in stages:
            checkpoint.save(tmp_path, stage, 2, step, state)
    checkpoint.prune(tmp_path, 2)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 5
    checkpoint.prune(tmp_path, 2, incomplete=True)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        f"step-000000{step}" for step in (20, 40, 50)
    ]
