"""A head of copies: the scores, what it trains, and the average of its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni.interfaces.local import LocalInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.models.recurrent import LSTM
from dni.predictors.copied_layers import CopiedLayers
from dni.predictors.head_critic import HeadCritic

CLASSES = 5


def made() -> CopiedLayers:
    torch.manual_seed(0)
    dropped = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, CLASSES))
    head = CopiedLayers({"norm": nn.LayerNorm(4), "scores": dropped}, (4,)).double()
    with torch.no_grad():
        head.scale.copy_(torch.tensor([1.0, 2.0, 0.5, -1.0]))
        head.bias.copy_(torch.tensor([0.1, 0.0, -0.3, 0.2]))
    return head


def window(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    return value, torch.randint(CLASSES, (2, 3), generator=generator)


def by_hand(head: CopiedLayers, value: Tensor) -> Tensor:
    weights = {name: head.get_parameter(place) for name, place in head.places.items()}
    x = value * torch.tensor([1.0, 2.0, 0.5, -1.0]).double() + head.bias
    normed = F.layer_norm(x, (4,), weights["norm.weight"], weights["norm.bias"])
    return normed @ weights["scores.1.weight"].T + weights["scores.1.bias"]


def test_scores_are_those_of_the_layers_on_a_scaled_and_shifted_value() -> None:
    head, (value, _) = made(), window()
    torch.testing.assert_close(head(value), by_hand(head, value))


def test_a_critic_and_a_local_loss_give_the_same_gradient_and_train_scale_and_bias_alone() -> None:
    head = made()
    critic = HeadCritic(copy.deepcopy(head), features=4, classes=CLASSES)
    local = LocalInterface(4, classes=CLASSES, head=copy.deepcopy(head))
    cut = DecoupledInterface(critic)
    for step in range(4):
        value, labels = window(step)
        torch.testing.assert_close(cut.gradient(step, value, labels), local.gradient(step, value, labels))
    leaf, (value, labels) = window(9)[0].requires_grad_(), window(9)
    F.cross_entropy(local.head(leaf).flatten(0, 1), labels.flatten(), reduction="sum").backward()
    torch.testing.assert_close(cut.predict(value, labels), leaf.grad)
    for trained in (critic.head, local.head):
        changed = {
            name for name, each in trained.state_dict().items() if not torch.equal(each, head.state_dict()[name])
        }
        assert changed == {"scale", "bias"}


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_copies_are_averaged(momentum: float) -> None:
    """By hand: after n copies of 1, m^n of the first weights is left."""
    head = made()
    first = head.get_parameter(head.places["norm.bias"]).clone() - 2
    for _ in range(3):
        head.average({"norm.bias": torch.ones(4).double(), "other.bias": torch.ones(7)}, momentum)
    found = head.get_parameter(head.places["norm.bias"])
    torch.testing.assert_close(found, momentum**3 * (first + 2) + (1 - momentum**3))


def test_feature_maps_have_a_number_for_each_channel() -> None:
    layers = {"flat": nn.Flatten(), "scores": nn.Linear(12, CLASSES)}
    head = CopiedLayers(layers, (3, 2, 2))
    assert head.bias.shape == (3, 1, 1)
    assert head(torch.zeros(6, 3, 2, 2)).shape == (6, CLASSES)


def test_a_layer_that_carries_state_begins_every_window_anew() -> None:
    layer = LSTM(4, 4)
    head = CopiedLayers({"rnn": layer}, (4,))
    value = torch.randn(2, 3, 4)
    for _ in range(2):
        torch.testing.assert_close(head(value), layer(value, layer.initial_state(2))[0], rtol=0, atol=0)
    assert "rnn.rnn.weight_ih_l0" in head.places
