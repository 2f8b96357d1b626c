"""The auxiliary task: a head that foretells the next synthetic gradient, and what it adds to the target."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dni.experimental.auxiliary import Auxiliary
from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.regressor import Regressor
from dni.time_targets.base import PastWindow

B, F = 3, 2
NONE = torch.zeros(B, dtype=torch.bool)


def linear_head(slope: float) -> DecoupledInterface:
    """a(s) = slope s, learned by SGD."""
    head = Regressor(F)
    head.last.weight.data = slope * torch.eye(F)
    return DecoupledInterface(head, torch.optim.SGD(head.parameters(), 0.1))


def past(step: int, state: Tensor, answer: Tensor, reset: Tensor = NONE, done: Tensor = NONE) -> PastWindow:
    empty = torch.zeros(B, 1, dtype=torch.int64)
    return PastWindow(step, empty, empty, empty, reset, done, None, state, answer)


def test_the_auxiliary_gradient_is_added_to_the_target_of_the_cut_before() -> None:
    """a = 2 s, so the gradient is 2 c * 2 (2 s - g); rows that begin or end with the window have none."""
    auxiliary = Auxiliary(linear_head(2.0), 0.5)
    s, g, plain = torch.randn(3, B, F)
    assert auxiliary.targets(past(1, s, torch.randn(B, F)), plain) == [(0, plain, None)]
    reset, done = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    ((step, target, _),) = auxiliary.targets(past(2, torch.randn(B, F), g, reset, done), plain)
    assert step == 1
    assert torch.equal(target[:2], plain[:2])
    torch.testing.assert_close(target[2], plain[2] + 2 * (2 * s - g)[2])


def test_the_head_learns_the_answer_from_the_state_that_entered() -> None:
    """Mean over the rows that count of |a - g|^2: one step of rate 0.1 changes W by -0.2 mean (a - g) s^T."""
    auxiliary = Auxiliary(linear_head(1.0), 0.5)
    s, g = torch.randn(2, B, F)
    done = torch.tensor([False, False, True])
    auxiliary.targets(past(1, s, g), g)
    auxiliary.targets(past(2, g, g, done=done), g)
    error = (s - g)[:2]
    found = auxiliary.head.predictor.get_parameter("last.weight")
    torch.testing.assert_close(found.detach(), torch.eye(F) - 0.2 * error.T @ s[:2] / 2)
    auxiliary.targets(past(3, g, g, reset=~NONE), g)
    assert auxiliary.head.updates == 1  # no row is left to learn from


def test_a_weight_of_zero_leaves_the_target_alone_bit_for_bit() -> None:
    auxiliary = Auxiliary(linear_head(1.0), 0.0)
    s, g = torch.randn(2, B, F)
    auxiliary.targets(past(1, s, g), g)
    ((_, target, _),) = auxiliary.targets(past(2, s, g), g)
    assert torch.equal(target, g)


def test_without_a_state_there_is_nothing_to_teach() -> None:
    auxiliary = Auxiliary(linear_head(1.0), 1.0)
    empty = torch.zeros(B, 1, dtype=torch.int64)
    assert auxiliary.targets(PastWindow(1, empty, empty, empty, NONE, NONE, None, None, None), None) == []


def test_state_survives_a_round_trip() -> None:
    one, two = (Auxiliary(linear_head(slope), 0.5) for slope in (1.0, 3.0))
    s, g = torch.randn(2, B, F)
    one.targets(past(1, s, g), g)
    one.targets(past(2, g, s), g)
    two.load_state_dict(one.state_dict())
    ((_, a, _),), ((_, b, _),) = (auxiliary.targets(past(3, s, s), g) for auxiliary in (one, two))
    assert torch.equal(a, b)
    assert not torch.equal(a, g)
    assert a.abs().sum().item() == pytest.approx(b.abs().sum().item())
