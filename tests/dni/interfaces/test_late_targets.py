"""What helps when targets are late: fits to earlier ones as well, and shorter steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.stages.base import Stage
from tests.support.runs import assert_same, parameters_of, tiny
from tests.workers.runtime.test_worker import STEPS, Line
from workers.launch.launcher import launch


def linear_interface(rate: float, **settings: Any) -> DecoupledInterface:
    predictor = Regressor(1)
    return DecoupledInterface(predictor, torch.optim.SGD(predictor.parameters(), rate), **settings)


def taught(interface: DecoupledInterface, step: int, value: float, target: float) -> tuple[float, float]:
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


def test_a_late_target_counts_for_less() -> None:
    """As above, v, g = 1, 2: punctual, w = b = 1. Two steps late and with fade = 1, a third of that."""
    interface = linear_interface(0.25, fade=1.0)
    for step in (1, 2, 3):
        interface.gradient(step, torch.ones(1, 1), None)
    interface.target(1, torch.full((1, 1), 2.0))
    last = interface.predictor.last
    assert isinstance(last, nn.Linear)
    assert (last.weight.item(), last.bias.item()) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert interface.total.loss == 4  # what is measured is the distance itself
    assert taught(linear_interface(0.25, fade=1.0), 1, 1.0, 2.0) == (1.0, 1.0)


def test_windows_of_one_size_are_one_batch() -> None:
    """A critic, three targets: the third step is that of the loss over all rows of the three."""
    torch.manual_seed(0)
    critic = SoftmaxCritic(4, classes=3, hidden=5).double()
    cut = DecoupledInterface(critic, torch.optim.SGD(critic.parameters(), 0.1), replay=2, fits=2)
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


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_shorter_step_in_numbers(accumulate: int) -> None:
    """SGD with momentum 0.5 at a rate of 1 and a gradient of 6: steps of 6 and 9, of which a third is taken of one."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    stage = Stage(module, torch.optim.SGD(module.parameters(), 1.0, momentum=0.5), accumulate=accumulate)
    for factor, expected in ((1 / 3, -2.0), (1.0, -11.0)):
        for _ in range(accumulate):
            stage.forward(torch.tensor([[3.0]]))
            stage.backward(torch.tensor([[2.0]]))
            stage.update(factor=factor)
        assert module.weight.item() == pytest.approx(expected)
        assert stage.optimizer.param_groups[0]["lr"] == 1.0


def factors(line: Line) -> list[list[float]]:
    """On the learning rate, by stage and step."""
    found: list[list[float]] = [[] for _ in line.workers]
    for worker, seen in zip(line.workers, found, strict=True):

        def watched(*args: Any, _seen: list[float] = seen, _update: Any = worker.stage.update, **more: Any) -> None:
            _seen.append(more["factor"])
            _update(*args, **more)

        worker.stage.update = watched  # type: ignore[method-assign]
    line.run()
    return found


def test_steps_shrink_with_the_age_of_the_predictors_newest_target(tmp_path: Path) -> None:
    """Lag 2: from the fourth step on there is one, two steps old when it was learned from; (1 + 2)^-2 = 1 / 9."""
    line = Line(tmp_path, lag=2, optimizer={"staleness": 2.0}, predictor={"depth": {"learning_rate": 0.01}})
    late = [1.0] * 3 + [pytest.approx(1 / 9)] * (STEPS - 3)
    assert factors(line) == [late, late, [1.0] * STEPS]


def test_steps_shrink_with_the_age_of_late_gradients(tmp_path: Path) -> None:
    """Lag 1: two steps late at the first of three stages, one at the second; (1 + s)^-1."""
    depth = {"method": "delayed", "window": 4, "lag": 1}
    found = factors(Line(tmp_path, lag=1, depth=depth, optimizer={"staleness": 1.0}))
    assert found == [[pytest.approx(1 / 3)] * (STEPS - 2), [0.5] * (STEPS - 1), [1.0] * STEPS]


def test_without_it_every_step_is_whole(tmp_path: Path) -> None:
    assert factors(Line(tmp_path, lag=2)) == [[1.0] * STEPS] * 3


@pytest.mark.parametrize("method", ["synthetic", "lambda_return"])
def test_an_interrupted_run_equals_one_that_went_on(method: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "stages": 3, "depth": {"method": method, "window": 6, "lag": 1}, "optimizer": {"staleness": 1.0},
        "predictor": {"depth": {"kind": "mlp", "hidden": 8, "replay": 2}},
    }  # fmt: skip
    launch(tiny(**settings, checkpoint={"every": 4, "keep": 9}), tmp_path / "saved")
    launch(tiny(**settings, resume=str(tmp_path / "saved"), resume_step=4), tmp_path / "part")
    launch(tiny(**settings), tmp_path / "whole")
    for way in ("saved", "part"):
        assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / way, 3))
    plain = {**settings, "predictor": {"depth": {"kind": "mlp", "hidden": 8}}}
    launch(tiny(**plain), tmp_path / "plain")
    whole, unlike = (parameters_of(tmp_path / way, 3) for way in ("whole", "plain"))
    assert not any(torch.equal(whole[name], unlike[name]) for name in whole)
