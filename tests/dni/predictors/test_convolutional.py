"""Predictors for feature maps, against autograd, and on targets that they can learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.base import LabelContext, Predictor
from dni.predictors.convolutional import ConvRegressor, Flattened, PooledCritic
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.types import IGNORED

SHAPE = (3, 7, 5)


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    value = torch.randn(6, *SHAPE, dtype=torch.float64)
    return value, torch.tensor([0, 3, 1, IGNORED, 2, 0]), torch.randn(6, *SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("pool_grid", [1, 3, 9])
def test_the_critics_gradient_is_autograds_of_its_own_cross_entropy_of_the_means(pool_grid: int, hidden: int) -> None:
    """Compute with torch's adaptive pooling and autograd; the loss is summed over the batch."""
    value, labels, target = drawn()
    critic = PooledCritic(SHAPE, pool_grid=pool_grid, classes=4, hidden=hidden, gradient_weight=0.7).double()
    torch.nn.init.normal_(critic.last.weight)
    leaf = value.clone().requires_grad_()
    z = F.adaptive_avg_pool2d(leaf, (min(pool_grid, 7), min(pool_grid, 5))).flatten(1)
    if critic.first is not None:
        z = torch.tanh(critic.first(z))
    loss = F.cross_entropy(critic.last(z), labels, ignore_index=IGNORED, reduction="sum")
    (expected,) = torch.autograd.grad(loss, leaf)

    predictor = Flattened(critic)
    fit = predictor.fit(value, labels, target)
    torch.testing.assert_close(predictor(value, labels), expected)
    torch.testing.assert_close(fit.prediction, expected)
    torch.testing.assert_close(fit.loss, loss / 6 + 0.7 * (expected - target).pow(2).sum() / 6)
    assert torch.equal(fit.prediction[3], torch.zeros(SHAPE, dtype=torch.float64))


def test_with_a_cell_for_every_position_the_critic_sees_the_whole_value() -> None:
    value, labels, _ = drawn()
    critic, plain = PooledCritic(SHAPE, pool_grid=9, classes=4).double(), SoftmaxCritic(105, classes=4).double()
    plain.load_state_dict(critic.state_dict())
    torch.testing.assert_close(Flattened(critic)(value, labels).flatten(1), plain(value.flatten(1), labels))


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("kind", ["conv", "linear", "mlp"])
def test_untrained_regressors_predict_zero(kind: str, classes: int) -> None:
    value, labels, target = drawn()
    predictor: Predictor = ConvRegressor(3, hidden=5, classes=classes)
    if kind != "conv":
        predictor = Flattened(Regressor(105, hidden=4 if kind == "mlp" else 0, classes=classes))
    fit = predictor.double().fit(value, labels, target)
    assert torch.equal(fit.prediction, torch.zeros_like(value))
    torch.testing.assert_close(fit.loss, target.pow(2).sum() / 6)


def test_the_label_is_a_map_of_ones_among_the_inputs() -> None:
    """Compute one convolution over value and one-hot maps; filters of the latter are zero outside their centre."""
    value, labels, _ = drawn()
    value, labels = value.float(), labels.clamp(min=0)
    regressor = ConvRegressor(3, hidden=5, classes=4)
    for layer in (regressor.second, regressor.last):
        torch.nn.init.normal_(layer.weight, std=0.1)
    assert isinstance(regressor.context, LabelContext)
    centre = torch.zeros(5, 4, 5, 5)
    centre[:, :, 2, 2] = regressor.context.table.weight[1:].T
    maps = F.one_hot(labels, 4).float()[:, :, None, None].expand(-1, -1, 7, 5)
    both, filters = torch.cat([value, maps], 1), torch.cat([regressor.first.weight, centre], 1)
    z = torch.relu(F.conv2d(both, filters, regressor.first.bias, padding=2))
    z = torch.relu(F.conv2d(z, regressor.second.weight, regressor.second.bias, padding=2))
    expected = F.conv2d(z, regressor.last.weight, regressor.last.bias, padding=2)
    torch.testing.assert_close(regressor(value, labels), expected)


def test_without_labels_context_is_refused() -> None:
    value, _, _ = drawn()
    with pytest.raises(ValueError, match="the step has no labels"):
        ConvRegressor(3, hidden=5, classes=4).double()(value, None)


def test_a_regressor_learns_a_gradient_that_depends_on_value_and_label() -> None:
    """The target is the value, with opposite sign for odd labels."""
    torch.manual_seed(0)
    predictor = ConvRegressor(2, hidden=12, classes=2)
    interface = DecoupledInterface(predictor, torch.optim.Adam(predictor.parameters(), 5e-3))
    cosines = []
    for step in range(200):
        value, labels = torch.randn(16, 2, 4, 4), torch.arange(16) % 2
        target = value * (1 - 2 * labels).view(-1, 1, 1, 1)
        answer = interface.gradient(step, value, labels)
        assert answer.shape == value.shape
        interface.target(step, target)
        cosines.append(F.cosine_similarity(answer.flatten(), target.flatten(), 0).item())
    assert cosines[0] == 0
    assert sum(cosines[-10:]) / 10 > 0.8
