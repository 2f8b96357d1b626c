"""Corrected synthetic gradients against backpropagation and by hand, in float64, with the stages in one process."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.interfaces.base import Interface
from dni.interfaces.corrected import CorrectedInterface
from dni.interfaces.loss import LossInterface, SquaredLossInterface
from dni.predictors.base import Predictor
from dni.predictors.critic import SoftmaxCritic
from dni.stages.base import Stage
from dni.stages.correcting import CorrectingStage

CLASSES = 4


class Line:
    """Stages in one process; what a stage sends back at a step arrives `lag` steps later."""

    def __init__(self, stages: list[Stage], cuts: list[Interface], lag: int) -> None:
        self.stages, self.cuts, self.lag = stages, cuts, lag
        self.sent: dict[tuple[int, int], list[tuple[int, Tensor]]] = defaultdict(list)  # by stage and step of arrival
        self.used: list[tuple[int, int]] = []  # stage, and step of the window that it went back through

    def step(self, step: int, x: Tensor, y: Tensor) -> None:
        outputs = []
        for stage in self.stages:
            x, _ = stage.forward(x, step=step)
            outputs.append(x)
        for k in reversed(range(len(self.stages))):
            self._back(k, step, outputs[k], y)

    def _back(self, k: int, step: int, output: Tensor, y: Tensor) -> None:
        stage, cut = self.stages[k], self.cuts[k]
        for earlier, gradient in self.sent.pop((k, step), []):
            cut.target(earlier, gradient)
        (own,) = cut.ready_steps(step, output, y)
        passes = [(step, own.gradient, 1.0), *((c.step, c.gradient, c.reply) for c in cut.corrections(step))]
        for earlier, gradient, reply in passes:
            activation = stage.backward(gradient, None, earlier).activation
            self.used.append((k, earlier))
            if reply and k:
                self.sent[k - 1, step + self.lag].append((earlier, reply * activation))
        stage.update(own.labels)


def modules() -> list[nn.Module]:
    torch.manual_seed(0)
    widths = [6, 5, 7, CLASSES]
    parts = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in itertools.pairwise(widths)]
    return [part.double() for part in parts]


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    xs = torch.randn(count, 3, 6, generator=generator, dtype=torch.float64)
    return [(x, torch.randint(CLASSES, (3,), generator=generator)) for x in xs]


def line(parts: list[nn.Module], rate: float, lag: int, **settings: Any) -> Line:
    torch.manual_seed(2)
    history = 2 * lag + 1
    stages: list[Stage] = []
    cuts: list[Interface] = []
    for k, part in enumerate(parts):
        optimizer = torch.optim.SGD(part.parameters(), rate, momentum=0.9)
        if k == len(parts) - 1:
            stages.append(Stage(part, optimizer))
            cuts.append(LossInterface())
        else:
            critic = SoftmaxCritic(list(part.parameters())[-1].numel(), classes=CLASSES, eager_loss=True).double()
            stages.append(CorrectingStage(part, optimizer, first=not k, memory=history))
            cuts.append(CorrectedInterface(critic, lag=lag, history=history, **settings))
    return Line(stages, cuts, lag)


def weights(parts: list[nn.Module]) -> Tensor:
    return torch.cat([p.detach().flatten() for part in parts for p in part.parameters()])


def test_without_delay_it_is_backpropagation() -> None:
    parts, whole = modules(), nn.Sequential(*modules())
    together = line(parts, 0.1, 0, beta=1.0, lambda_=1.0, orders=2)
    optimizer = torch.optim.SGD(whole.parameters(), 0.1, momentum=0.9)
    for step, (x, y) in enumerate(batches(20)):
        together.step(step, x, y)
        optimizer.zero_grad()
        nn.functional.cross_entropy(whole(x), y).backward()
        optimizer.step()
    assert (weights(parts) - weights(list(whole))).abs().max() < 1e-12
    critic = together.cuts[0]
    assert isinstance(critic, CorrectedInterface)
    assert critic.updates == 20  # a trained predictor, not one of zero


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_with_fixed_weights_everything_applied_for_a_step_is_the_true_gradient(lag: int) -> None:
    """One step has labels; then the stages go on until the last residual has come. The predictors learn meanwhile."""
    parts, whole = modules(), nn.Sequential(*modules())
    together = line(parts, 0.0, lag, beta=1.0, lambda_=1.0, orders=2)
    applied: dict[str, Tensor] = {}

    def watch(k: int, stage: Stage) -> None:
        go_back = stage.backward

        def watched(gradient: Tensor, state: Tensor | None = None, step: int = 0) -> Any:
            found = go_back(gradient, state, step)
            for name, parameter in stage.module.named_parameters():
                if step == 2 and parameter.grad is not None:
                    key = f"{k}.{name}"
                    applied[key] = applied.get(key, 0) + parameter.grad
                parameter.grad = None
            return found

        stage.backward = watched  # type: ignore[method-assign]

    for k, stage in enumerate(together.stages):
        watch(k, stage)
    given = batches(3 + 2 * lag)
    for step, (x, y) in enumerate(given):
        together.step(step, x, y)
    x, y = given[2]
    nn.functional.cross_entropy(whole(x), y, reduction="sum").backward()
    for name, parameter in whole.named_parameters():
        assert (applied[name] - parameter.grad).abs().max() < 1e-13
    assert [step for k, step in together.used if k == 0].count(2) == 3


class Scaled(Predictor):
    """A fixed prediction: half the value."""

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        return value / 2


@pytest.mark.parametrize("stash", [True, False])
def test_two_linear_stages_by_hand(stash: bool) -> None:
    """v = w x, out = u v with w = 2, u = 3, loss (out - y)^2 / 2, x = 1, y = 5; rates 1/8 and 0; beta 1/2, lag 1.

    Step 1: v = 2, the prediction is v / 2 = 1, so w becomes 2 - 1/8 = 1.875. The target is u (u v - y) = 3 (6 - 5) = 3,
    and the residual 3 - 1 = 2. Step 2, x = 2: v = 3.75 and the prediction 1.875; dL/dw = 1.875 * 2 + (1/2) * 2 * x_1
    = 3.75 + 1 = 4.75, so w = 1.875 - 0.59375 = 1.28125. A linear stage's Jacobian, x, does not depend on its weights,
    so stashing them changes nothing.
    """
    parts = [nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()]
    for part, value in zip(parts, (2.0, 3.0), strict=True):
        nn.init.constant_(part.weight, value)
    optimizers = [torch.optim.SGD(part.parameters(), rate) for part, rate in zip(parts, (1 / 8, 0.0), strict=True)]
    stages = [CorrectingStage(parts[0], optimizers[0], memory=2, stash=stash), Stage(parts[1], optimizers[1])]
    cuts = [CorrectedInterface(Scaled(), beta=0.5, lag=1, history=2), SquaredLossInterface()]
    two = Line(stages, cuts, 1)
    found = []
    for step, x in ((1, 1.0), (2, 2.0)):
        two.step(step, torch.full((1, 1), x, dtype=torch.float64), torch.full((1, 1), 5.0, dtype=torch.float64))
        found.append(parts[0].weight.item())
    assert found == [1.875, 1.28125]


@pytest.mark.parametrize("stash", [True, False])
def test_a_correction_uses_the_weights_of_its_step_if_these_are_stashed(stash: bool) -> None:
    """v = tanh(w x) with x = 1: dv/dw = 1 - tanh(w)^2 at w = 1 with stash, at today's w = 3 without."""
    part = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh()).double()
    nn.init.ones_(part[0].weight)
    stage = CorrectingStage(part, torch.optim.SGD(part.parameters(), 1.0), memory=2, stash=stash)
    x = torch.ones(1, 1, dtype=torch.float64)
    stage.forward(x, step=1)
    stage.backward(torch.zeros_like(x), None, 1)
    stage.update()
    nn.init.constant_(part[0].weight, 3.0)
    stage._stashed = {}
    stage.forward(x, step=2)
    stage.backward(torch.zeros_like(x), None, 2)
    back = stage.backward(torch.full_like(x, 0.5), None, 1)
    w = torch.tensor(1.0 if stash else 3.0, dtype=torch.float64)
    slope = 0.5 * (1 - torch.tanh(w) ** 2)
    assert part[0].weight.grad is not None
    assert part[0].weight.grad.item() == pytest.approx(slope.item(), rel=1e-14)
    assert back.activation.item() == pytest.approx((w * slope).item(), rel=1e-14)
