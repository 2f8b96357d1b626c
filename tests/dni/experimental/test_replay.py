"""Replay: every target is fitted together with earlier ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.errors import UsageError
from dni.experimental.replay import ReplayInterface
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from tests.support.runs import assert_same, parameters_of, tiny
from workers.launch.launcher import launch


def linear_interface(rate: float, **settings: Any) -> ReplayInterface:
    predictor = Regressor(1)
    return ReplayInterface(predictor, torch.optim.SGD(predictor.parameters(), rate), **settings)


def taught(interface: ReplayInterface, step: int, value: float, target: float) -> tuple[float, float]:
    """One target, at once; weight and bias after it."""
    interface.gradient(step, torch.tensor([[value]]), None)
    interface.target(step, torch.tensor([[target]]))
    last = interface.predictor.last
    assert isinstance(last, nn.Linear)
    return last.weight.item(), last.bias.item()


def test_replayed_targets_in_numbers() -> None:
    """Loss (w v + b - g)^2 from w = b = 0, at a rate of 0.25; errors e = w v + b - g, steps -0.5 * mean(e v, e).

    v, g = 1, 2: e = -2, so w = b = 1. Then 3, 0: e = 4, and again 1, 2 with e = 0: w = 1 - 0.5 * 6, b = 1 - 0.5 * 2.
    Then 0, 1 with e = -1, beside 3, 0 with e = -6, for the first has made room: w = -2 + 0.5 * 9, b = 0.5 * 3.5.
    """
    interface = linear_interface(0.25, replay=1)
    assert taught(interface, 1, 1.0, 2.0) == (1.0, 1.0)
    assert taught(interface, 2, 3.0, 0.0) == (-2.0, 0.0)
    assert taught(interface, 3, 0.0, 1.0) == (2.5, 1.75)
    assert interface.total.loss == 4 + 16 + 1  # measured is the new one alone


def test_windows_of_one_size_are_one_batch() -> None:
    """A critic, three targets: the third step is that of the loss over all rows of the three."""
    torch.manual_seed(0)
    critic = SoftmaxCritic(4, classes=3, hidden=5).double()
    cut = ReplayInterface(critic, torch.optim.SGD(critic.parameters(), 0.1), replay=2, steps_per_target=2)
    values, targets = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    labels = torch.randint(0, 3, (3, 6))
    for step in range(2):
        cut.gradient(step, values[step], labels[step])
        cut.target(step, targets[step])
    alone = copy.deepcopy(critic)
    optimizer = torch.optim.SGD(alone.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        alone.fit(values.flatten(0, 1), labels.flatten(), targets.flatten(0, 1)).loss.backward()
        optimizer.step()
    cut.gradient(2, values[2], labels[2])
    cut.target(2, targets[2])
    for one, other in zip(critic.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_what_is_replayed_is_in_the_state() -> None:
    one, two = linear_interface(0.1, replay=3), linear_interface(0.1, replay=3)
    for step in range(5):
        taught(one, step, step / 3, 1.0)
    one.gradient(5, torch.ones(1, 1), None)
    one.gradient(6, torch.ones(1, 1), None)
    one.target(5, torch.ones(1, 1))
    assert one.staleness == 1
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert two.staleness == 1
    assert len(two.state_dict()["replay"]) == 3
    assert taught(one, 7, 0.5, 2.0) == taught(two, 7, 0.5, 2.0)


def test_an_interrupted_run_equals_one_that_went_on(tmp_path: Path) -> None:
    depth = {"method": "replay", "max_in_flight": 6, "lag": 1, "replay": 2}
    settings: dict[str, Any] = {
        "stages": 3, "depth": depth, "optimizer": {"staleness": 1.0},
        "predictor": {"depth": {"kind": "mlp", "hidden": 8}},
    }  # fmt: skip
    launch(tiny(**settings, checkpoint={"every": 4, "keep": 9}), tmp_path / "saved")
    launch(tiny(**settings, resume=str(tmp_path / "saved"), resume_step=4), tmp_path / "part")
    launch(tiny(**settings), tmp_path / "whole")
    for way in ("saved", "part"):
        assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / way, 3))
    plain = {**settings, "depth": {**depth, "replay": 0}}
    launch(tiny(**plain), tmp_path / "plain")
    whole, unlike = (parameters_of(tmp_path / way, 3) for way in ("whole", "plain"))
    assert not any(torch.equal(whole[name], unlike[name]) for name in whole)


def test_a_number_of_targets_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="replay"):
        linear_interface(0.1, replay=-1)
