"""Learning-rate schedules against closed forms and torch's schedulers, equal at all stages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from dni.errors import ResumeError
from dni.lr_schedule import Constant, Cosine, Linear, LRSchedule, Step, start_schedule
from dni.stages.base import Stage
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

FULL = 0.5


def rates(schedule: LRSchedule, count: int) -> list[float]:
    """Return the rates at steps 1, 2, ... of an optimizer that takes no step."""
    module = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(module.parameters(), FULL, fused=True)
    started = start_schedule(schedule, optimizer, schedule.decay_steps or 1)
    stage, found = Stage(module, optimizer, schedule=started), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        stage.forward(torch.ones(1, 1))
        stage.backward(torch.ones(1, 1))
        stage.update(move=False)
        assert stage.schedule is not None
        stage.schedule.step()
    return found


def of_torch(make: Any, count: int) -> list[float]:
    optimizer, found = torch.optim.SGD([torch.zeros(1)], FULL), []
    theirs = make(optimizer)
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (Cosine(10, final=0.2), lambda o: lr_scheduler.CosineAnnealingLR(o, 10, eta_min=0.2 * FULL)),
        (Linear(10, final=0.2), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, total_iters=10)),
        (Step(4, final=0.1), lambda o: lr_scheduler.StepLR(o, 4, gamma=0.1)),
    ],
)
def test_without_warm_up_it_is_torchs_own_schedule(schedule: LRSchedule, theirs: Any) -> None:
    assert rates(schedule, 11) == pytest.approx(of_torch(theirs, 11), rel=1e-6)


def test_the_rates_in_numbers() -> None:
    """Check three steps of warm-up, then the start, quarter, half and end of eight steps, and the rate afterwards."""
    warm = [FULL / 3, 2 * FULL / 3, FULL]
    assert rates(Constant(warmup_steps=3), 5) == pytest.approx([*warm, FULL, FULL])
    cosine = rates(Cosine(11, 3, 0.2), 14)
    assert cosine[:4] == pytest.approx([*warm, FULL])
    assert cosine[5] == pytest.approx(FULL * (0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2))
    assert cosine[7] == pytest.approx(FULL * 0.6)
    assert cosine[11:] == pytest.approx([0.2 * FULL] * 3)
    linear = rates(Linear(11, 3), 13)
    assert linear[3:] == pytest.approx([FULL * (8 - m) / 8 for m in range(9)] + [0])
    assert rates(Step(2, 3, 0.1), 9)[3:] == pytest.approx([FULL * s for s in (1, 1, 0.1, 0.1, 0.01, 0.01)])


SCHEDULE: dict[str, Any] = {
    "learning_rate": 1e-2, "schedule": {"kind": "cosine", "warmup_steps": 3, "final": 0.1},
}  # fmt: skip


def ending(step: int) -> dict[str, Any]:
    """Return SCHEDULE with an explicit end."""
    return {**SCHEDULE, "schedule": {**SCHEDULE["schedule"], "decay_steps": step}}


def expected(step: int, steps: int = 10) -> float:
    """Return the rates of SCHEDULE at steps 1, 2, ... of a run of `steps`."""
    if step <= 3:
        return 1e-2 * step / 3
    return 1e-2 * (0.1 + 0.9 * (1 + math.cos(math.pi * min(1, (step - 4) / (steps - 3)))) / 2)


@pytest.mark.parametrize("stages", [1, 3])
def test_stages_equal_the_unsplit_model(stages: int, tmp_path: Path) -> None:
    config = tiny(stages=stages, depth={"method": "backprop"}, optimizer={**SCHEDULE, "kind": "sgd"})
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, stages), plain_training(config, expected))


#: Stages stand still for some steps, wait for others, or go back late and several times.
WAYS: dict[str, dict[str, Any]] = {
    "warming": {"depth": {"method": "synthetic", "lag": 1}, "predictor": {"depth": {"warmup": 5}}},
    "summed": {"depth": {"method": "synthetic", "lag": 1}, "optimizer": {"accumulate": 3}},
    "late": {"depth": {"method": "delayed", "lag": 2}, "optimizer": {"kind": "nadam"}},
    "free": {"depth": {"method": "delayed"}, "optimizer": {"kind": "adamw", "weight_decay": 0.1}},
}


def scheduled(way: str, **more: Any) -> Config:
    changes = {**WAYS[way], **more}
    return tiny(stages=3, **{**changes, "optimizer": {**SCHEDULE, **changes.get("optimizer", {})}})


@pytest.mark.parametrize("way", WAYS)
def test_all_stages_have_the_rate_of_the_step(way: str, tmp_path: Path) -> None:
    launch(scheduled(way, checkpoint={"every": 4, "keep": 9}), tmp_path)
    for step in (4, 8, 10):
        for stage in range(3):
            saved = checkpoint.load(tmp_path, step, stage)["stage"]
            assert saved["schedule"]["last_epoch"] == step
            assert saved["optimizer"]["param_groups"][0]["lr"] == pytest.approx(expected(step + 1))


@pytest.mark.parametrize("way", ["summed", "late"])
def test_a_resumed_run_equals_one_that_never_stopped(way: str, tmp_path: Path) -> None:
    launch(scheduled(way), tmp_path / "whole")
    launch(scheduled(way, checkpoint={"every": 4, "keep": 9}), tmp_path / "saved")
    launch(scheduled(way, resume=str(tmp_path / "saved"), resume_step=4), tmp_path / "part")
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "part", 3))


def test_longer_run_keeps_its_recorded_schedule(tmp_path: Path) -> None:
    """The end of the schedule is recorded with the first run. A run with another end is another run."""
    first = {"stages": 1, "resume": str(tmp_path / "first")}
    launch(tiny(stages=1, optimizer=SCHEDULE), tmp_path / "first")
    with pytest.raises(ResumeError) as refused:
        launch(tiny(steps=12, optimizer=SCHEDULE, **first), tmp_path / "other")
    assert str(refused.value) == (
        f"resume={tmp_path}/first: the cosine schedule was to end at step 10, the number of steps then, and now "
        "there are 12: add optimizer.schedule.decay_steps=12 to stretch it (step 11 then uses a rate of "
        f"{expected(11, 12):g}), optimizer.schedule.decay_steps=10 to let it end there (the rate is 0.001 from "
        f"then on), or start a new run with these weights: start_from={tmp_path}/first instead of resume"
    )
    launch(tiny(steps=12, optimizer=ending(10), **first), tmp_path / "on")
    group = checkpoint.load(tmp_path / "on", 12, 0)["stage"]["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(1e-3)


def test_finished_run_resumes_with_a_longer_schedule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From step 11 on, rates are those of a run of 14 steps. An unchanged end has no effect, and a message says so."""
    caplog.set_level("INFO")
    own = {**SCHEDULE, "kind": "sgd"}
    backprop: dict[str, Any] = {"stages": 2, "depth": {"method": "backprop"}}
    launch(tiny(**backprop, optimizer=own), tmp_path / "first")
    more: dict[str, Any] = {**backprop, "steps": 14, "resume": str(tmp_path / "first")}
    launch(tiny(**more, optimizer={**ending(14), "kind": "sgd"}), tmp_path / "on")
    whole = tiny(**backprop, steps=14, optimizer=own)
    trained = plain_training(whole, lambda step: expected(step, 10 if step <= 10 else 14))
    assert_same(parameters_of(tmp_path / "on", 2), trained)
    launch(tiny(**more, optimizer={**ending(10), "kind": "sgd"}), tmp_path / "ended")
    assert [message for message in caplog.messages if "schedule ends" in message] == [
        f"the cosine schedule ends at step 14 instead of 10: step 11 uses a rate of {expected(11, 14):g}, not 0.001",
        "the cosine schedule ends at step 10 and stays at rate 0.001; optimizer.schedule.decay_steps=14 stretches it",
    ]


def test_schedule_ends_at_max_timesteps(tmp_path: Path) -> None:
    """30 time steps are 5 windows of 6, fewer than `steps`."""
    launch(tiny(stages=1, max_timesteps=30, optimizer=SCHEDULE), tmp_path)
    group = checkpoint.load(tmp_path, 5, 0)["stage"]["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(1e-3)
