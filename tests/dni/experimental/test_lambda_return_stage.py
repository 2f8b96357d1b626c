"""The stage of depth=lambda_return: recomputed windows, replies, and dropped windows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni.experimental.lambda_return_stage import LambdaReturnStage
from dni.models import LSTM
from dni.recurrent import Chain
from dni.stages.base import Stage
from tests.support.runs import assert_same
from tests.support.stages.optimizer import sgd

B, T, D = 2, 4, 3


def test_reply_by_hand() -> None:
    """y = w2 w1 x with w1 = 2, w2 = 3, x = 1: learned from g = 1 at a rate of 0.1, the weights become 1.7 and 2.8.

    A target G = 5, mixed in by a quarter, then goes back as 1.7 * 2.8 * (3/4 * 1 + 1/4 * 5).
    """
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    for layer, weight in zip(module, (2.0, 3.0), strict=True):
        nn.init.constant_(layer.weight, weight)
    stage, one = LambdaReturnStage(module, sgd(module), mix=0.25, memory=2), torch.ones(1, 1, dtype=torch.float64)
    stage.forward(one, step=1)
    assert stage.backward(one, step=1).activation is None
    stage.update()
    assert stage.ready_replies() == []
    stage.on_target(1, 5 * one)
    ((step, gradient),) = stage.ready_replies()
    assert (step, gradient.item()) == (1, pytest.approx(1.7 * 2.8 * 2.0))
    assert [p.item() for p in module.parameters()] == pytest.approx([1.7, 2.8])
    assert all(p.grad is None for p in module.parameters())
    stage.on_target(1, one)  # answered
    assert stage.ready_replies() == []


def modules(dropout: float) -> list[Chain]:
    """Return two equal recurrent models with dropout and batch norm."""
    torch.manual_seed(3)
    one = Chain(LSTM(D, D), nn.Dropout(dropout), LSTM(D, D), Norm(), nn.Linear(D, D)).double()
    return [one, copy.deepcopy(one)]


class Norm(nn.BatchNorm1d):
    """Batch norm of the features of (B, T, D)."""

    def __init__(self) -> None:
        super().__init__(D)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputation_is_exact_and_has_no_side_effects(dropout: float) -> None:
    """With constant parameters and m = 1, the reply equals a plain stage's, three windows later."""
    a, b = modules(dropout)
    plain, stage = Stage(a, sgd(a, 0.0)), LambdaReturnStage(b, sgd(b, 0.0), mix=1.0, memory=9)
    generator, reset = torch.Generator().manual_seed(1), torch.tensor([True, False])
    expected: list[Tensor | None] = []
    targets: list[Tensor] = []
    for step in range(8):
        value, predicted, target = torch.randn(3, B, T, D, generator=generator, dtype=torch.float64)
        back = torch.randn(B, 4 * D, generator=generator, dtype=torch.float64)
        plain.forward(value, reset if step % 3 == 1 else None)
        expected.append(plain.backward(target, back).activation)
        stage.forward(value, reset if step % 3 == 1 else None, step)
        stage.backward(predicted, back, step)
        stage.update()
        targets.append(target)
        if step >= 3:
            before = copy.deepcopy(stage.state_dict())
            stage.on_target(step - 3, targets[step - 3])
            ((answered, gradient),) = stage.ready_replies()
            assert answered == step - 3
            torch.testing.assert_close(gradient, expected[answered], rtol=1e-12, atol=1e-14)
            after = stage.state_dict()
            for part in ("module", "random"):
                assert_same(before[part], after[part])
            assert all(torch.equal(x, y) for x, y in zip(before["state"], after["state"], strict=True))
            assert all(p.grad is None for p in b.parameters())
    assert_same(a.state_dict(), b.state_dict())  # the running statistics have seen every window once


def test_chunks_are_recomputed() -> None:
    torch.manual_seed(2)
    module = Chain(LSTM(D, D), nn.Linear(D, D)).double()
    value, target = torch.randn(2, B, T, D, dtype=torch.float64)
    found = []
    for chunk in (None, 2):
        own = copy.deepcopy(module)
        stage = LambdaReturnStage(own, sgd(own), mix=0.5, memory=2, chunk=chunk)
        stage.forward(value, step=1)
        stage.backward(value, step=1)
        stage.on_target(1, target)
        found.append(stage.ready_replies()[0].gradient)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_the_oldest_two_are_answered_and_no_more_than_memory_wait() -> None:
    module = nn.Linear(1, 1)
    stage, one = LambdaReturnStage(module, sgd(module, 0.0), mix=1.0, memory=3), torch.ones(1, 1)
    for step in (1, 2, 3, 4):
        stage.forward(one * step, step=step)
        stage.backward(one, step=step)
        stage.update()
    for step in (4, 1, 3, 2):
        stage.on_target(step, step * one)
    twin = copy.deepcopy(module)
    two = LambdaReturnStage(twin, sgd(twin), mix=1.0, memory=3)
    two.load_state_dict(copy.deepcopy(stage.state_dict()))
    for each in (stage, two):
        answers = [each.ready_replies(), each.ready_replies(), each.ready_replies()]
        assert [[step for step, _ in some] for some in answers] == [[2, 3], [4], []]  # the first was given up
        assert answers[1][0].gradient.item() == pytest.approx(4 * module.weight.item())
