"""Late backward passes, with the weights of the forward pass or with the current ones."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.models import LSTM
from dni.recurrent import Chain
from dni.stages.base import Stage
from dni.stages.weight_stashing import StashingStage
from tests.support.stages.optimizer import sgd

B, T, D = 2, 4, 3


@pytest.mark.parametrize(
    ("stash", "second", "weights"), [(True, 6.0, (1.4, 2.6)), (False, 1.7 * 2.8, (1.7 - 0.28, 2.8 - 0.17))]
)
def test_two_windows_ahead_by_hand(stash: bool, second: float, weights: tuple[float, float]) -> None:
    """y = w2 w1 x with w1 = 2, w2 = 3, x = 1: dw1 = w2, dw2 = w1, dx = w1 w2, at a rate of 0.1.

    The first window makes the weights 1.7 and 2.8. The gradient of the second depends on which weights it uses.
    """
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    for layer, weight in zip(module, (2.0, 3.0), strict=True):
        nn.init.constant_(layer.weight, weight)
    stage = StashingStage(module, sgd(module), stash=stash)
    one = torch.ones(1, 1, dtype=torch.float64)
    outputs = [stage.forward(one, step=step)[0].item() for step in (1, 2)]
    assert outputs == [6.0, 6.0]
    found = []
    for step in (1, 2):
        activation = stage.backward(one, step=step).activation
        assert activation is not None
        found.append(activation.item())
        stage.update()
    assert found == pytest.approx([6.0, second])
    assert [p.item() for p in module.parameters()] == pytest.approx(weights)
    assert stage.forward(one, step=3)[0].item() == pytest.approx(weights[0] * weights[1])


def recurrent(stash: bool, rate: float = 0.1, dropout: float = 0.0, **settings: Any) -> StashingStage:
    torch.manual_seed(3)
    layers = [LSTM(D, D), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(D, D)]
    module = Chain(*layers).double()
    return StashingStage(module, sgd(module, rate), stash=stash, **settings)


def ahead(stage: StashingStage, waiting: int, steps: int = 7) -> list[Tensor]:
    """Run backward passes `waiting` steps late; return the gradients of inputs and states, then the parameters."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(steps):
        value, back = torch.randn(2, B, T, D, generator=generator, dtype=torch.float64)
        stage.forward(value, step=step)
        if step >= waiting:
            gradients = stage.backward(back, step=step - waiting)
            assert gradients.activation is not None
            found.append(gradients.activation)
            stage.update(B * T)
    return [*found, *(p.detach() for p in stage.module.parameters())]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("stash", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_late_gradients_are_exact_with_constant_weights(stash: bool, dropout: float) -> None:
    """Recomputation draws the same masks and does not change the carried state."""
    kept = recurrent(True, rate=0.0, dropout=dropout)
    assert same(ahead(kept, 2), ahead(recurrent(stash, rate=0.0, dropout=dropout), 2))


@pytest.mark.parametrize("stash", [True, False])
def test_without_delay_it_is_a_plain_stage(stash: bool) -> None:
    late, module = recurrent(stash), copy.deepcopy(recurrent(stash).module)
    plain, generator = Stage(module, sgd(module)), torch.Generator().manual_seed(1)
    expected = []
    for _ in range(7):
        value, back = torch.randn(2, B, T, D, generator=generator, dtype=torch.float64)
        plain.forward(value)
        expected.append(plain.backward(back).activation)
        plain.update(B * T)
    assert same(ahead(late, 0), [*(g for g in expected if g is not None), *(p.detach() for p in module.parameters())])


@pytest.mark.parametrize("stash", [True, False])
def test_batch_norm_sees_every_window_once(stash: bool) -> None:
    """Statistics start at 0 and 1, and each window moves them a tenth towards its mean 2 and variance 10 / 3."""
    module = nn.BatchNorm1d(1)
    stage, value = StashingStage(module, sgd(module, 0.0), stash=stash), torch.tensor([[0.0], [4.0], [1.0], [3.0]])
    for step in range(4):
        stage.forward(value, step=step)
        if step >= 2:
            stage.backward(torch.ones(4, 1), step=step - 2)
            stage.update()
    assert module.num_batches_tracked == 4
    assert module.running_mean.item() == pytest.approx(2 * (1 - 0.9**4))
    assert module.running_var.item() == pytest.approx(0.9**4 + 10 / 3 * (1 - 0.9**4))


@pytest.mark.parametrize("stash", [True, False])
def test_recomputed_chunks_use_the_same_weights(stash: bool) -> None:
    for a, b in zip(ahead(recurrent(stash, chunk=2), 2), ahead(recurrent(stash), 2), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stash", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_waiting_windows_are_in_the_state_dict(stash: bool, dropout: float) -> None:
    one, two = recurrent(stash, dropout=dropout), recurrent(stash, dropout=dropout)
    ahead(one, 3)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    back = torch.randn(B, T, D, dtype=torch.float64)
    for stage in (one, two):
        for step in (4, 5, 6):
            stage.backward(back, step=step)
            stage.update(B * T)
        stage.forward(back, step=7)
        stage.backward(back, step=7)
        stage.update(B * T)
    assert same([*one.module.parameters()], [*two.module.parameters()])


def test_window_with_a_lost_gradient_is_dropped() -> None:
    stage = recurrent(True)
    value = torch.randn(B, T, D, dtype=torch.float64)
    for step in (1, 2, 3):
        stage.forward(value, step=step)
    stage.backward(value, step=2)
    assert list(stage.state_dict()["held"]) == [3]


@pytest.mark.parametrize(("accumulate", "copies"), [(1, 5), (2, 3), (4, 2)])
@pytest.mark.long
def test_copies_of_the_weights_in_memory(accumulate: int, copies: int) -> None:
    """With four kept windows and a new one, there is a copy per optimizer step. No other leaf is 11 by 13."""

    def in_memory() -> int:
        return sum(type(x) is Tensor and x.requires_grad and x.shape == (11, 13) for x in gc.get_objects())

    module = nn.Linear(13, 11)
    stage = StashingStage(module, sgd(module), accumulate=accumulate)
    most = 0
    gc.collect()
    for step in range(13):
        stage.forward(torch.ones(1, 13), step=step)
        most = max(most, in_memory())
        assert stage.versions <= copies
        if step >= 4:
            stage.backward(torch.ones(1, 11), step=step - 4)
            stage.update()
    assert most <= copies
    unstashed = StashingStage(module, sgd(module), stash=False)
    for step in range(4):
        unstashed.forward(torch.ones(1, 13), step=step)
    assert unstashed.versions == 0
