"""Synthetic inputs: models of the previous stage's output, with which no stage waits for a forward pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from dni.errors import DivergedError
from dni.experimental.synthetic_input_interface import (
    SyntheticInputInterface,
    flat_inputs,
    sequence_inputs,
    symbol_inputs,
)
from dni.interfaces.base import Interface
from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.regressor import Regressor
from dni.recurrent import Chain
from dni.stages.base import Stage


def sgd(module: Chain, rate: float = 0.1, memory: int = 64) -> SyntheticInputInterface:
    return SyntheticInputInterface(module, torch.optim.SGD(module.parameters(), rate), memory=memory)


def test_a_linear_model_takes_the_step_of_least_squares() -> None:
    """With W = 0: d/dW of the mean over rows of |W x - h|^2 is -2/B sum h x^T; the bias has x = 1."""
    torch.manual_seed(0)
    x, h = torch.randn(5, 2, 3), torch.randn(5, 4)
    inputs = sgd(flat_inputs(6, [4]))
    assert torch.equal(inputs.predict(1, x), torch.zeros(5, 4))
    inputs.target(1, h)
    weight = 0.1 * 2 / 5 * h.T @ x.flatten(1)
    bias = 0.1 * 2 / 5 * h.sum(0)
    torch.testing.assert_close(inputs.predict(2, x), x.flatten(1) @ weight.T + bias)
    spread = ((h - h.mean(0)) ** 2).sum()
    loss, r2 = inputs.take_recent().values()
    assert (loss, r2) == (pytest.approx((h**2).sum().item() / 5), pytest.approx(1 - ((h**2).sum() / spread).item()))
    assert inputs.take_recent() == {"input_loss": None, "input_r2": None}


def test_a_hidden_layer_and_feature_maps() -> None:
    torch.manual_seed(0)
    x, h = torch.randn(5, 6), torch.randn(5, 2, 3, 2)
    module = flat_inputs(6, [2, 3, 2], hidden=7)
    first, last = (p.detach().clone() for p in module.first.parameters())  # type: ignore[union-attr]
    inputs = sgd(module)
    assert torch.equal(inputs.predict(1, x), torch.zeros(5, 2, 3, 2))
    inputs.target(1, h)
    z = torch.relu(x @ first.T + last)
    weight, bias = 0.04 * h.flatten(1).T @ z, 0.04 * h.flatten(1).sum(0)
    torch.testing.assert_close(inputs.predict(2, x), (z @ weight.T + bias).view(5, 2, 3, 2))


def test_symbol_table_moves_to_the_mean_of_its_targets() -> None:
    inputs = sgd(symbol_inputs(3, 2), rate=0.5)
    h = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    inputs.predict(1, torch.tensor([[0, 2], [2, 2]]))
    inputs.target(1, h)
    after = inputs.predict(2, torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(after[0], torch.tensor([[0.25, 0.5], [0.0, 0.0], [15 / 4, 18 / 4]]))


def test_a_recurrent_model_carries_its_state_and_resets_streams() -> None:
    torch.manual_seed(0)
    module = sequence_inputs(5, 3, hidden=4)
    nn.init.normal_(module[-1].weight)  # type: ignore[arg-type]
    x = torch.randint(5, (2, 9))
    inputs, reset = sgd(module), torch.tensor([False, True])
    parts = [inputs.predict(n, x[:, 3 * n : 3 * n + 3], reset if n == 2 else None) for n in range(3)]
    whole = module(x, module.initial_state(2))[0]
    torch.testing.assert_close(torch.cat(parts, 1)[0], whole[0])
    torch.testing.assert_close(torch.cat(parts[:2], 1)[1], whole[1, :6])
    torch.testing.assert_close(parts[2][1:], module(x[1:, 6:], module.initial_state(1))[0])


def test_late_target_is_learned_from_its_entering_state() -> None:
    """Fit the first of three windows last, and compare with autograd on that window alone."""
    torch.manual_seed(0)
    module, twin = sequence_inputs(5, 3, hidden=4), sequence_inputs(5, 3, hidden=4)
    twin.load_state_dict(module.state_dict())
    x, h = torch.randint(5, (2, 9)), torch.randn(2, 3, 3)
    inputs = sgd(module)
    for n in range(3):
        inputs.predict(n, x[:, 3 * n : 3 * n + 3])
    inputs.target(1, h)
    _, entering = twin(x[:, :3], twin.initial_state(2))
    loss = (twin(x[:, 3:6], tuple(s.detach() for s in entering))[0] - h).pow(2).sum() / 6
    loss.backward()
    for mine, other in zip(module.parameters(), twin.parameters(), strict=True):
        expected = other if other.grad is None else other - 0.1 * other.grad
        torch.testing.assert_close(mine, expected)


def test_targets_of_unknown_used_or_dropped_steps_are_ignored() -> None:
    inputs = sgd(flat_inputs(2, [2]), memory=2)
    x, h = torch.ones(1, 2), torch.ones(1, 2)
    for step in (1, 2, 3):
        inputs.predict(step, x)
    for step in (1, 9):
        inputs.target(step, h)
    assert inputs.recent.updates == 0
    inputs.target(2, h)
    inputs.target(2, h)
    assert inputs.recent.updates == 1
    with pytest.raises(DivergedError, match="the loss of the inputs of step 3 is nan: lower their learning rate"):
        inputs.target(3, h * torch.nan)


def test_it_goes_on_exactly_from_its_state() -> None:
    def made() -> SyntheticInputInterface:
        torch.manual_seed(3)
        module = sequence_inputs(5, 3, hidden=4)
        return SyntheticInputInterface(module, torch.optim.Adam(module.parameters(), 0.1))

    def go_on(inputs: SyntheticInputInterface) -> Tensor:
        inputs.target(2, torch.ones(2, 3, 3))
        return inputs.predict(3, torch.full((2, 3), 4))

    one, two = made(), made()
    for step in (1, 2):
        one.predict(step, torch.full((2, 3), step))
    one.target(1, torch.ones(2, 3, 3))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(go_on(one), go_on(two))
    assert go_on(one).any()


class SquaredLoss(Interface):
    """The end of a network whose loss is the sum of |output - y|^2."""

    def __init__(self, wanted: Tensor) -> None:
        self.wanted = wanted

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        return 2 * (value - self.wanted)


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class LinearNetwork:
    """Stages of one linear layer each, which run step t from the data alone; targets arrive after the step."""

    def __init__(self, widths: list[int], x: Tensor, y: Tensor) -> None:
        self.x, self.labels, self.step = x, torch.arange(len(x)), 0
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
        for layer in layers:
            nn.init.orthogonal_(layer.weight)
        self.stages = [
            Stage(layer, torch.optim.SGD(layer.parameters(), 0.02), first=k == 0) for k, layer in enumerate(layers)
        ]
        self.ends: list[Interface] = [self._decoupled(width) for width in widths[1:-1]]
        self.ends.append(SquaredLoss(y))
        models = [flat_inputs(widths[0], [width]) for width in widths[1:-1]]
        self.inputs = [SyntheticInputInterface(m, torch.optim.SGD(m.parameters(), 0.3), memory=1) for m in models]

    def _decoupled(self, features: int) -> DecoupledInterface:
        predictor = Regressor(features, classes=len(self.x))
        return DecoupledInterface(predictor, torch.optim.SGD(predictor.parameters(), 0.3), memory=1)

    def train(self, stage: Stage, end: Interface, value: Tensor) -> tuple[Tensor, Tensor | None]:
        output, _ = stage.forward(value)
        gradients = stage.backward(end.gradient(self.step, output, self.labels))
        stage.update(len(self.x))
        return output, gradients.activation

    def take_step(self) -> None:
        predicted = [self.x, *(inputs.predict(self.step, self.x) for inputs in self.inputs)]
        done = [self.train(*each) for each in zip(self.stages, self.ends, predicted, strict=True)]
        for inputs, end, (output, _), (_, gradient) in zip(self.inputs, self.ends, done, done[1:], strict=False):
            assert gradient is not None
            inputs.target(self.step, output)
            end.target(self.step, gradient)
        self.step += 1

    @torch.no_grad()
    def output(self) -> Tensor:
        """Return the output of the network itself, without predictions."""
        value = self.x
        for stage in self.stages:
            value, _ = stage.module(value)
        return value


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize(("widths", "steps"), [([4, 4, 2], 350), ([4, 4, 4, 2], 650)])
@pytest.mark.long
def test_fully_unlocked_linear_network_learns_least_squares(widths: list[int], steps: int) -> None:
    """No stage sees the output of the previous stage at the same step.

    The label of an example is its number. A linear predictor can therefore learn the exact gradient, and a linear model
    of the inputs the exact input. At a fixed point the gradient of the network is zero.
    """
    torch.manual_seed(0)
    x = math.sqrt(12) * torch.linalg.qr(torch.randn(12, widths[0])).Q
    y = torch.randn(12, widths[-1])
    network = LinearNetwork(widths, x, y)
    for _ in range(steps):
        network.take_step()
    exact = x @ torch.linalg.lstsq(x, y).solution
    assert ((exact - y) ** 2).mean() > 0.1  # the exact solution does not interpolate the data
    torch.testing.assert_close(network.output(), exact, atol=1e-4, rtol=0)
