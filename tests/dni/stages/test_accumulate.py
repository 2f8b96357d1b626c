"""One optimizer step from the gradients of several windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dni.stages.base import Stage


def window(stage: Stage, gradient: float, divisor: float, move: bool = True) -> float:
    """Run one window of a stage with a single weight and a given gradient; return the weight afterwards."""
    stage.forward(torch.tensor([[1.0]]))
    stage.backward(torch.tensor([[gradient]]))
    stage.update(divisor, move=move)
    (weight,) = stage.module.parameters()
    assert weight.grad is None
    return weight.item()


def single_weight(**settings: Any) -> Stage:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    return Stage(module, torch.optim.SGD(module.parameters(), 1.0, momentum=0.5), **settings)


def test_accumulated_windows_are_divided_and_clipped_together() -> None:
    stage = single_weight(accumulate=3, clip=2.0)
    assert [window(stage, g, d) for g, d in ((1.0, 2.0), (3.0, 1.0), (5.0, 3.0))] == [0, 0, -9 / 6]
    assert [window(stage, g, 1.0) for g in (30.0, 30.0)] == [-1.5, -1.5]
    assert window(stage, 30.0, 1.0) == pytest.approx(-1.5 - (0.5 * 1.5 + 2), abs=1e-5)  # 30 is clipped to 2


def test_windows_that_may_not_move_are_not_accumulated() -> None:
    stage = single_weight(accumulate=2)
    assert [window(stage, 4.0, 1.0, move) for move in (False, True, False)] == [0, 0, 0]
    assert window(stage, 2.0, 1.0) == -3.0


def test_accumulated_windows_without_gradient_do_not_move() -> None:
    """Momentum alone would change the weight."""
    stage = single_weight(accumulate=2)
    assert [window(stage, g, 1.0) for g in (1.0, 1.0, 0.0, 0.0, 0.0, 2.0)] == [0, -1, -1, -1, -1, -1 - (0.5 + 1)]


def test_accumulated_gradients_survive_a_round_trip() -> None:
    one, two = single_weight(accumulate=3), single_weight(accumulate=3)
    for gradient in (1.0, 2.0):
        window(one, gradient, 2.0)
    two.load_state_dict(one.state_dict())
    assert window(one, 6.0, 5.0) == window(two, 6.0, 5.0) == -1.0
