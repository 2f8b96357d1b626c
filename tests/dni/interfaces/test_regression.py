"""A critic with the form of the true loss gives the exact gradient; squared critics learn it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni.errors import DivergedError
from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.loss import SquaredLossInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.critic import Critic, SoftmaxCritic, SquaredCritic
from dni.stages.base import Stage

D, OUTPUTS, HIDDEN = 4, 3, 6


def remaining(hidden: int) -> nn.Sequential:
    """Return the network after the cut: linear, or with one tanh layer."""
    torch.manual_seed(5)
    below = [nn.Linear(D, hidden), nn.Tanh()] if hidden else []
    return nn.Sequential(*below, nn.Linear(hidden or D, OUTPUTS)).double()


def informed(critic: Critic, rest: nn.Sequential) -> Critic:
    """Return a critic with the weights of the network after the cut."""
    if critic.first is not None:
        critic.first.load_state_dict(rest[0].state_dict())
    critic.last.load_state_dict(rest[-1].state_dict())
    return critic


@pytest.mark.parametrize("hidden", [0, HIDDEN])
def test_critic_with_the_true_weights_gives_the_exact_gradient(hidden: int) -> None:
    """By autograd through the remaining network and the loss, both written independently of the critics."""
    rest, value = remaining(hidden), torch.randn(2, 7, D, dtype=torch.float64, requires_grad=True)
    classes, numbers = torch.randint(0, OUTPUTS, (2, 7)), torch.randn(2, 7, OUTPUTS, dtype=torch.float64)
    entropy = F.cross_entropy(rest(value).flatten(0, 1), classes.flatten(), reduction="sum")
    squares = 0.5 * F.mse_loss(rest(value), numbers, reduction="sum")
    critics = [
        SoftmaxCritic(D, classes=OUTPUTS, hidden=hidden).double(),
        SquaredCritic(D, OUTPUTS, hidden=hidden).double(),
    ]
    for critic, loss, labels in zip(critics, (entropy, squares), (classes, numbers), strict=True):
        (expected,) = torch.autograd.grad(loss, value)
        torch.testing.assert_close(informed(critic, rest)(value.detach(), labels), expected, rtol=1e-12, atol=1e-14)
        fit = critic.fit(
            value.detach(), labels, expected
        )  # the distance to the target is zero: the loss per row remains
        assert fit.loss.item() == pytest.approx(loss.item() / 14, rel=1e-12)
        torch.testing.assert_close(fit.prediction, expected, rtol=1e-12, atol=1e-14)


def literal(critic: Critic, bias: list[float]) -> Critic:
    """W = [[1, 2], [3, 4]]."""
    with torch.no_grad():
        critic.last.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        critic.last.bias.copy_(torch.tensor(bias))
    return critic


def test_two_by_two_by_hand() -> None:
    """v = (1, -1), so W v = (-1, -1).

    Squared loss, b = (0.5, -1), y = (0, 1): W v + b - y = (-0.5, -3), W^T times that is (-9.5, -13), and C = 9.25 / 2.
    The squared distance to the target (-9.5, -12) is 1, with a weight of 0.5. Softmax, label 0: p - e = (-0.5, 0.5),
    and W^T times that is (1, 1).
    """
    value = torch.tensor([[1.0, -1.0]])
    squared = literal(SquaredCritic(2, 2, gradient_weight=0.5), [0.5, -1.0])
    fit = squared.fit(value, torch.tensor([[0.0, 1.0]]), torch.tensor([[-9.5, -12.0]]))
    assert fit.prediction.tolist() == squared(value, torch.tensor([[0.0, 1.0]])).tolist() == [[-9.5, -13.0]]
    assert fit.loss.item() == 9.25 / 2 + 0.5
    softmax = literal(SoftmaxCritic(2, classes=2), [0.0, 0.0])
    assert softmax(value, torch.tensor([0])).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("hidden", [0, HIDDEN])
def test_squared_critic_gradients_equal_finite_differences(hidden: int) -> None:
    torch.manual_seed(0)
    critic = informed(SquaredCritic(D, OUTPUTS, hidden=hidden, gradient_weight=0.7).double(), remaining(hidden))
    value, target = torch.randn(2, 6, D, dtype=torch.float64)
    labels = torch.randn(6, OUTPUTS, dtype=torch.float64)
    critic.fit(value, labels, target).loss.backward()
    for parameter in critic.parameters():
        assert parameter.grad is not None
        flat, step, sides = parameter.data.view(-1), 1e-6, []
        for move in (step, -2 * step):
            flat[1] += move
            sides.append(critic.fit(value, labels, target).loss.item())
        flat[1] += step
        assert parameter.grad.view(-1)[1].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)


def test_a_linear_critic_learns_least_squares() -> None:
    """Learn only C of y = A v + a + noise: W and b must be the solution of the normal equations."""
    torch.manual_seed(1)
    value = torch.randn(64, D, dtype=torch.float64)
    labels = (
        value @ torch.randn(D, OUTPUTS, dtype=torch.float64) + 2 + 0.3 * torch.randn(64, OUTPUTS, dtype=torch.float64)
    )
    critic = SquaredCritic(D, OUTPUTS, gradient_weight=0.0).double()
    cut = DecoupledInterface(critic, torch.optim.SGD(critic.parameters(), 0.5))
    for step in range(300):
        cut.gradient(step, value, labels)
        cut.target(step, torch.zeros_like(value))
    design = torch.cat([value, torch.ones(64, 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.solve(design.T @ design, design.T @ labels)  # (D + 1, OUTPUTS)
    torch.testing.assert_close(critic.last.weight.detach(), solution[:D].T, rtol=0, atol=1e-10)
    torch.testing.assert_close(critic.last.bias.detach(), solution[D], rtol=0, atol=1e-10)
    expected = (design @ solution - labels) @ solution[:D].T
    torch.testing.assert_close(cut.predict(value, labels), expected, rtol=0, atol=1e-9)


def test_the_squared_loss_in_numbers() -> None:
    loss = SquaredLossInterface()
    output, labels = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    assert loss.gradient(1, output, labels).tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert loss.measured == (5.0, 2)
    assert loss.loss == 2.5
    again = loss.recompute(output + 1, labels, None)
    assert again is not None
    assert again.tolist() == [[2.0, 1.0], [1.0, 4.0]]
    assert loss.loss == 2.5


def test_labels_of_another_shape_are_refused() -> None:
    """Torch would broadcast them: (B, 1) and (B,) to (B, B)."""
    loss, critic, one = SquaredLossInterface(), SquaredCritic(D, 1), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"labels \(2,\) do not match an estimate of shape \(2, 1\)"):
        loss.gradient(1, one, torch.zeros(2))
    with pytest.raises(ValueError, match=r"labels \(2,\) do not match"):
        critic(torch.zeros(2, D), torch.zeros(2))
    with pytest.raises(ValueError, match="needs the labels"):
        critic.fit(torch.zeros(2, D), None, one)
    with pytest.raises(ValueError, match="step 3 reached the loss without labels"):
        loss.gradient(3, one, None)
    with pytest.raises(DivergedError, match="the loss of step 4 is nan"):
        loss.gradient(4, one * math.nan, one)


def learned(cuts: list[Interface]) -> float:
    """Train three stages with these cuts on y = sin of a linear map of x; return the mean loss of the last 50 steps."""
    torch.manual_seed(0)
    rule, loss, losses = torch.randn(5, 2), SquaredLossInterface(), []
    modules = [
        nn.Sequential(nn.Linear(5, 32), nn.Tanh()),
        nn.Sequential(nn.Linear(32, 32), nn.Tanh()),
        nn.Linear(32, 2),
    ]
    stages = [Stage(m, torch.optim.Adam(m.parameters(), 3e-3)) for m in modules]
    for step in range(300):
        x = torch.randn(64, 5)
        y = torch.sin(x @ rule)
        for k, (stage, cut) in enumerate(zip(stages, [*cuts, loss], strict=True)):
            x, _ = stage.forward(x)
            back = stage.backward(cut.gradient(step, x, y))
            stage.update(len(y))
            if k and back.activation is not None:
                cuts[k - 1].target(step, back.activation)
        losses.append(loss.loss)
    return sum(losses[-50:]) / 50


@pytest.mark.long
def test_a_split_regression_learns() -> None:
    """Without gradients across the cuts, the first two stages do not learn."""
    nothing = learned([ZeroInterface(), ZeroInterface()])
    assert learned([DecoupledInterface(SquaredCritic(32, 2)) for _ in range(2)]) < 0.5 * nothing
