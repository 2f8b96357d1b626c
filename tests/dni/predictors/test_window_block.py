"""Parts of a model as blocks of a head."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni.models.lru import LRU
from dni.models.recurrent import GRU, LSTM
from dni.predictors.window_block import as_block, has_second_derivative


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        by_head = x.unsqueeze(1)
        return F.scaled_dot_product_attention(self.map(by_head), by_head, by_head).squeeze(1)


def value() -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [LSTM, GRU, LRU])
def test_a_recurrent_layer_begins_every_window_with_zeros_and_gives_its_output_alone(kind: type[nn.Module]) -> None:
    layer = kind(4, 4)
    block = as_block(layer, value())
    assert block is not None
    expected, _ = layer(value(), layer.initial_state(2))
    torch.testing.assert_close(block(value()), expected, rtol=0, atol=0)
    torch.testing.assert_close(block(value()), expected, rtol=0, atol=0)  # nothing is carried on


def test_a_block_draws_no_random_numbers_and_is_left_in_its_mode() -> None:
    layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.LSTM(4, 4, num_layers=2, dropout=0.5))
    block = as_block(layer[:2], value())
    assert block is not None
    assert block.training
    torch.testing.assert_close(block(value()), layer[0](value()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 4),  # a single layer
        nn.LayerNorm(4),
        nn.ReLU(),
        nn.Sequential(nn.ReLU(), nn.ReLU()),  # no parameters
        nn.Sequential(nn.Linear(4, 5)),  # another shape
        nn.Sequential(nn.Linear(5, 5)),  # another input
        nn.Sequential(nn.Embedding(4, 4)),  # other inputs
        LSTM(4, 5),
    ],
    ids=str,
)
def test_other_layers_are_no_blocks(layer: nn.Module) -> None:
    assert as_block(layer, value()) is None


def test_to_try_a_layer_does_not_change_it() -> None:
    layer = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    before = copy.deepcopy(layer.state_dict())
    assert as_block(layer, torch.ones(2, 3, 4, 4)) is not None
    assert all(torch.equal(before[name], each) for name, each in layer.state_dict().items())


@pytest.mark.parametrize(
    ("model", "smooth"), [(nn.Linear(4, 4), True), (LSTM(4, 4), True), (LRU(4, 4), False), (Attention(), False)]
)
def test_second_derivatives_are_those_that_torch_has(model: nn.Module, smooth: bool) -> None:
    block = as_block(model, value()) or model
    assert has_second_derivative(block, value()) == smooth
