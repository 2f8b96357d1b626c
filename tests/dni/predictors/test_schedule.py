"""Rates of predictors that follow the stage's schedule, in numbers; a resumed run has the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.lr_schedule import Linear, follow, rate_factor, start_schedule
from tests.support.runs import assert_same, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

#: Factors of a warm-up of two steps and a line over the eight steps after it, at steps 1 to 10.
FACTORS = [1 / 2, 2 / 2, 8 / 8, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]

FOLLOWING: dict[str, Any] = {"learning_rate": 0.02, "schedule": "stage", "warmup": 0}

#: Where the model that follows lies in a checkpoint, and the settings that train it.
PLACES: dict[str, tuple[str, dict[str, Any]]] = {
    "critic": ("depth", {"depth": {"lag": 1}, "predictor": {"depth": FOLLOWING}}),
    "eager head": ("depth", {"depth": {"lag": 1}, "predictor": {"depth": {"kind": "norm_head", **FOLLOWING}}}),
    "local head": ("depth", {"depth": {"method": "local"}, "predictor": {"depth": {"kind": "norm_head", **FOLLOWING}}}),
    "classifier": ("depth", {"depth": {"method": "local", "learning_rate": 0.02}, "predictor": {"depth": FOLLOWING}}),
    "in time": (
        "time", {"time": {"method": "synthetic"}, "predictor": {"time": FOLLOWING}, "data": {"sequence": 60}}
    ),
}  # fmt: skip


def scheduled(place: str, **more: Any) -> Config:
    schedule = {"kind": "linear", "warmup_steps": 2}
    return tiny(**{**PLACES[place][1], "optimizer": {"learning_rate": 5e-3, "schedule": schedule}, **more})


def saved_rate(run_dir: Path, cut: str, step: int) -> float:
    """Return the rate of the newest optimizer step of the first stage's predictor."""
    optimizer = checkpoint.load(run_dir, step, 0)[cut]["optimizer"]
    return float(optimizer["param_groups"][0]["lr"])


def test_steps_have_the_rates_of_the_schedule_of_another_optimizer() -> None:
    """Plain gradient descent with gradients of 1 moves by its rate: 0.5, but for the factors 3/4, 2/4, 1/4, 0."""
    leader = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 8.0)
    assert rate_factor(leader) == 1
    schedule = start_schedule(Linear(), leader, 4)
    weight = nn.Parameter(torch.zeros(1))
    follower = torch.optim.SGD([weight], 0.5)
    follow(follower, lambda: rate_factor(leader))
    moves = []
    assert schedule is not None
    for _ in range(5):
        before, weight.grad = weight.item(), torch.ones(1)
        follower.step()
        moves.append(before - weight.item())
        schedule.step()
    assert moves == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0])


@pytest.mark.parametrize("place", PLACES)
def test_predictors_have_the_factor_of_the_step(place: str, tmp_path: Path) -> None:
    launch(scheduled(place, checkpoint={"every": 1, "keep": 10}), tmp_path)
    rates = [saved_rate(tmp_path, PLACES[place][0], step) for step in range(2, 11)]  # a lag of 1: none before step 2
    assert rates == pytest.approx([0.02 * factor for factor in FACTORS[1:]])


def test_rates_are_constant_by_default(tmp_path: Path) -> None:
    own = {"kind": "critic", "learning_rate": 0.02, "warmup": 0}
    launch(scheduled("critic", predictor={"depth": own}, checkpoint={"every": 1, "keep": 10}), tmp_path)
    assert {saved_rate(tmp_path, "depth", step) for step in range(1, 11)} == {0.02}


@pytest.mark.parametrize("place", ["critic", "local head"])
def test_a_resumed_run_equals_one_that_never_stopped(place: str, tmp_path: Path) -> None:
    launch(scheduled(place), tmp_path / "whole")
    launch(scheduled(place, checkpoint={"every": 4, "keep": 9}), tmp_path / "saved")
    launch(scheduled(place, resume=str(tmp_path / "saved"), resume_step=4), tmp_path / "part")
    whole, part = (checkpoint.load(tmp_path / name, 10, 0) for name in ("whole", "part"))
    model = "head" if place == "local head" else "predictor"
    assert_same(whole["depth"][model], part["depth"][model])
    assert_same(whole["stage"]["module"], part["stage"]["module"])
    assert saved_rate(tmp_path / "part", "depth", 10) == saved_rate(tmp_path / "whole", "depth", 10)
