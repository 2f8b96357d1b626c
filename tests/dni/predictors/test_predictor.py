"""Predictors against autograd and against numbers worked out by hand; shapes of labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dni.interfaces.oracle import Oracle
from dni.losses import squared_distance
from dni.predictors.base import LabelContext, first_counted
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.types import IGNORED


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("classes", [0, 5])
def test_untrained_regressor_predicts_zero(hidden: int, classes: int) -> None:
    predictor = Regressor(4, hidden=hidden, classes=classes)
    value, labels = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 4, IGNORED]])
    assert torch.equal(predictor(value, labels), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("hidden", [0, 6])
def test_numbers_as_context_are_a_matrix(hidden: int) -> None:
    """Untrained it predicts nothing; then W2 relu(W1 v + C y) + b, or W v + C y + b."""
    predictor = Regressor(4, hidden=hidden, outputs=2)
    value, labels = torch.randn(2, 3, 4), torch.randn(2, 3, 2)
    assert torch.equal(predictor(value, labels), torch.zeros(2, 3, 4))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter)
    weights = dict(predictor.named_parameters())
    seen = labels @ weights["context.table.weight"].T
    below = torch.relu(value @ weights["first.weight"].T + weights["first.bias"] + seen) if hidden else value
    expected = below @ weights["last.weight"].T + weights["last.bias"] + (0 if hidden else seen)
    torch.testing.assert_close(predictor(value, labels), expected)


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("future_labels", [1, 3])
def test_critic_gradient_is_autograds_gradient_of_its_own_cross_entropy(hidden: int, future_labels: int) -> None:
    torch.manual_seed(1)
    critic = SoftmaxCritic(4, classes=5, future_labels=future_labels, hidden=hidden).double()
    torch.nn.init.normal_(critic.last.weight)
    value = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (7, future_labels))
    labels[2] = IGNORED

    z = value if critic.first is None else torch.tanh(critic.first(value))
    logits = critic.last(z).view(7 * future_labels, 5)
    loss = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")
    (expected,) = torch.autograd.grad(loss, value)

    fit = critic.fit(value.detach(), labels, torch.zeros(7, 4))
    torch.testing.assert_close(critic(value, labels), expected)
    torch.testing.assert_close(fit.prediction, expected)
    torch.testing.assert_close(fit.loss, loss / 7 + expected.pow(2).sum() / 7)
    assert torch.equal(fit.prediction[2], torch.zeros(4, dtype=torch.float64))


def test_critic_in_a_closed_form_case() -> None:
    """Two classes, W = [[1], [-1]], v = 0.5, label 0: dC/dv = (p0 - 1) - p1 = -2 (1 - sigmoid(2 v))."""
    critic = SoftmaxCritic(1, classes=2)
    with torch.no_grad():
        critic.last.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    gradient = critic(torch.tensor([[0.5]]), torch.tensor([0]))
    assert gradient.item() == pytest.approx(-2 * (1 - 1 / (1 + math.exp(-1.0))), abs=1e-6)


def test_of_one_label_far_away_a_critic_has_one_head() -> None:
    """dC/dv = W^T (softmax(W v + b) - onehot(y)), wherever y lies among 200 labels; zero if it lies beyond them."""
    torch.manual_seed(2)
    critic = SoftmaxCritic(6, classes=10, future_labels=200, counted=1, gradient_weight=0.5).double()
    assert sum(p.numel() for p in critic.parameters()) == 6 * 10 + 10
    torch.nn.init.normal_(critic.last.weight)
    value, labels = torch.randn(4, 6, dtype=torch.float64), torch.full((4, 200), IGNORED)
    labels[0, 0], labels[1, 57], labels[2, 199] = 3, 9, 0
    weight, bias = critic.last.weight.detach(), critic.last.bias.detach()
    expected, loss = torch.zeros(4, 6, dtype=torch.float64), 0.0
    for row, label in ((0, 3), (1, 9), (2, 0)):
        scores = (weight @ value[row] + bias).exp()
        shares = scores / scores.sum()
        expected[row] = weight.T @ (shares - F.one_hot(torch.tensor(label), 10))
        loss -= math.log(shares[label])
    fit = critic.fit(value, labels, torch.zeros(4, 6))
    torch.testing.assert_close(critic(value, labels), expected)
    torch.testing.assert_close(fit.prediction, expected)
    assert fit.loss.item() == pytest.approx((loss + 0.5 * expected.pow(2).sum().item()) / 4, rel=1e-12)


def test_counted_labels_keep_their_order() -> None:
    rows = torch.tensor([[IGNORED, 4, IGNORED, 0, 2, 1], [IGNORED, IGNORED, 3, IGNORED, IGNORED, IGNORED]])
    assert first_counted(rows, 3).tolist() == [[4, 0, 2], [3, IGNORED, IGNORED]]
    assert torch.equal(first_counted(rows, 6)[0], torch.tensor([4, 0, 2, 1, IGNORED, IGNORED]))


def test_critic_parameter_gradients_equal_finite_differences() -> None:
    torch.manual_seed(0)
    critic = SoftmaxCritic(3, classes=4, future_labels=2, hidden=5, gradient_weight=0.7).double()
    torch.nn.init.normal_(critic.last.weight)
    value, target = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    labels = torch.randint(0, 4, (6, 2))
    critic.fit(value, labels, target).loss.backward()
    for parameter in critic.parameters():
        assert parameter.grad is not None
        flat, step = parameter.data.view(-1), 1e-6
        flat[1] += step
        above = critic.fit(value, labels, target).loss.item()
        flat[1] -= 2 * step
        below = critic.fit(value, labels, target).loss.item()
        flat[1] += step
        assert parameter.grad.view(-1)[1].item() == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-8)


def test_label_context_is_the_sum_of_one_column_per_label() -> None:
    context = LabelContext(classes=3, future_labels=2, features=2)
    table = context.table.weight.detach()
    rows = torch.tensor([[2, 0], [IGNORED, 1]])
    expected = torch.stack([table[1 + 2] + table[1 + 3 + 0], table[1 + 3 + 1]])
    torch.testing.assert_close(context(rows), expected)


def test_labels_of_another_shape_are_refused() -> None:
    critic = SoftmaxCritic(4, classes=5)
    with pytest.raises(ValueError, match=r"labels \(2, 2\) do not match a value of shape \(2, 3, 4\)"):
        critic(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="the step has no labels"):
        critic(torch.zeros(2, 3, 4), None)


def test_squared_distance_sums_features_and_averages_rows() -> None:
    assert squared_distance(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2)).item() == 2.5


def test_oracle_is_the_exact_gradient() -> None:
    oracle = Oracle(lambda value, labels: value.pow(3).sum())
    with torch.no_grad():
        assert torch.equal(oracle(torch.tensor([[2.0]]), None), torch.tensor([[12.0]]))
