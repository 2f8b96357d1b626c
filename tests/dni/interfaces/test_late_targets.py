"""Late targets: a lower weight of the target (staleness_decay), and shorter steps (staleness)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.regressor import Regressor
from dni.stages.base import Stage
from tests.workers.runtime.test_worker import STEPS, Line


def linear_interface(rate: float, **settings: Any) -> DecoupledInterface:
    predictor = Regressor(1)
    return DecoupledInterface(predictor, torch.optim.SGD(predictor.parameters(), rate), **settings)


def taught(interface: DecoupledInterface, step: int, value: float, target: float) -> tuple[float, float]:
    """Train on one target without delay; return weight and bias."""
    interface.gradient(step, torch.tensor([[value]]), None)
    interface.target(step, torch.tensor([[target]]))
    last = interface.predictor.last
    assert isinstance(last, nn.Linear)
    return last.weight.item(), last.bias.item()


def test_late_target_has_a_lower_weight() -> None:
    """Loss (w v + b - g)^2 from w = b = 0 at a rate of 0.25, v, g = 1, 2: the error is -2, so w = b = 1 without delay.

    With a target two steps late and staleness_decay = 1, the weights change by a third of that.
    """
    interface = linear_interface(0.25, staleness_decay=1.0)
    for step in (1, 2, 3):
        interface.gradient(step, torch.ones(1, 1), None)
    interface.target(1, torch.full((1, 1), 2.0))
    last = interface.predictor.last
    assert isinstance(last, nn.Linear)
    assert (last.weight.item(), last.bias.item()) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert interface.total.loss == 4  # the meter records the distance without the weight
    assert taught(linear_interface(0.25, staleness_decay=1.0), 1, 1.0, 2.0) == (1.0, 1.0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_staleness_shortens_a_step(accumulate: int) -> None:
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
    """Return the factors on the learning rate, by stage and step."""
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
    depth = {"method": "delayed", "max_in_flight": 4, "lag": 1}
    found = factors(Line(tmp_path, lag=1, depth=depth, optimizer={"staleness": 1.0}))
    assert found == [[pytest.approx(1 / 3)] * (STEPS - 2), [0.5] * (STEPS - 1), [1.0] * STEPS]


def test_without_staleness_every_step_is_full(tmp_path: Path) -> None:
    assert factors(Line(tmp_path, lag=2)) == [[1.0] * STEPS] * 3
