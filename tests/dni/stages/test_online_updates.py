"""Carried traces while weights move: every n windows, and with traces that decay."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from dni.models import LRU, MinGRU
from dni.recurrent import Chain, Recurrent
from dni.stages.base import Stage
from dni.stages.online import OnlineStage
from tests.support.stages.optimizer import sgd
from tests.support.stages.windows_of_stages import loss_of, of_whole

B, T, D, H, WINDOWS = 3, 4, 5, 6, 6


@functools.cache
def windows() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(B, T, D, dtype=torch.float64, generator=generator) for _ in range(WINDOWS))


def chain(kind: type[MinGRU] | type[LRU] = MinGRU) -> Chain:
    torch.manual_seed(3)
    layer: Recurrent = kind(D, H)
    return Chain(layer, nn.Linear(H if kind is MinGRU else D, D)).double()


def take_step(stage: Stage, x: Tensor) -> None:
    output, _ = stage.forward(x)
    leaf = output.detach().requires_grad_()  # type: ignore[union-attr]
    (back,) = torch.autograd.grad(loss_of(leaf), leaf)
    stage.backward(back)


@pytest.mark.parametrize("kind", [MinGRU, LRU])
def test_one_step_for_all_windows_is_exact(kind: type[MinGRU] | type[LRU]) -> None:
    """Weights that stand still for n windows of a sequence move along the gradient of the whole sequence."""
    module = chain(kind)
    before = [p.detach().clone() for p in module.parameters()]
    exact = of_whole([module], windows(), [None] * WINDOWS)
    stage = OnlineStage(module, sgd(module, 0.1), accumulate=WINDOWS)
    for n, x in enumerate(windows()):
        assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True)), n
        take_step(stage, x)
        stage.update(2.0)
    expected = [old - 0.1 * gradient / (2 * WINDOWS) for old, gradient in zip(before, exact, strict=True)]
    torch.testing.assert_close([p.detach() for p in module.parameters()], expected, rtol=1e-10, atol=1e-12)


def test_the_credit_of_a_window_decays_with_every_step_since() -> None:
    """The last window's loss, by the weights of each window: of one n steps ago, the gradient counts decay^n times.

    The rate is 0, so that the weights of all windows are equal.
    """
    decay, module = 0.7, chain()
    stage = OnlineStage(module, sgd(module, 0.0), trace_decay=decay)
    for x in windows()[:-1]:
        take_step(stage, x)
        stage.update()
    take_step(stage, windows()[-1])
    copies = [copy.deepcopy(module) for _ in windows()]
    state = module.initial_state(B)
    for each, x in zip(copies, windows(), strict=True):
        output, state = each(x, state)
    of_copies = [torch.autograd.grad(loss_of(output), [*each[0].parameters()], retain_graph=True) for each in copies]
    expected = [torch.zeros_like(p) for p in module[0].parameters()]
    for ago, gradients in enumerate(reversed(of_copies)):
        for total, gradient in zip(expected, gradients, strict=True):
            total += decay**ago * gradient
    found = [p.grad for p in module[0].parameters()]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def error_of(rate: float, trace_decay: float, accumulate: int = 1) -> float:
    """Return the relative error of the last window's gradient, after updates with a learning rate.

    Exact is the gradient by the present weights, if they had run all windows before.
    """
    module = chain()
    stage = OnlineStage(module, sgd(module, rate), trace_decay=trace_decay, accumulate=accumulate)
    for x in windows()[:-1]:
        take_step(stage, x)
        stage.update(B * T)
    for p in module.parameters():
        p.grad = None
    take_step(stage, windows()[-1])
    found = torch.cat([p.grad.flatten() for p in module[0].parameters() if p.grad is not None])
    state = module.initial_state(B)
    for x in windows():
        output, state = module(x, state)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(output), [*module[0].parameters()])])
    return float((found - exact).norm() / exact.norm())


def test_traces_of_older_weights_are_wrong_in_proportion_to_the_rate() -> None:
    assert error_of(0.0, 1.0) < 1e-12
    for rate in (1e-3, 1e-2):
        assert error_of(2 * rate, 1.0) / error_of(rate, 1.0) == pytest.approx(2, rel=0.1)
    assert error_of(0.1, 1.0, accumulate=WINDOWS - 1) < error_of(0.1, 1.0)


def test_without_a_past_the_error_is_that_of_truncation() -> None:
    assert error_of(0.0, 0.0) > 10 * error_of(0.0, 0.99) > 1e-4
    module = chain()
    stages = [OnlineStage(module, sgd(module, 0.0), trace_decay=0.0), Stage(module, sgd(module, 0.0))]
    found = []
    for stage in stages:
        for x in windows():
            take_step(stage, x)
            gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
            stage.update()
        found.append(gradients)
    torch.testing.assert_close(*found, rtol=0, atol=0)
