"""Layers that begin as the identity, and new layers among old ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni.errors import ConfigError
from dni.growth import insertion, make_identity
from dni.models import LRU, LSTM, MinGRU, SegmentTransformer
from dni.models.images import ResidualBlock as ImageBlock
from dni.models.residual import Mixing, ResidualBlock
from dni.recurrent import Recurrent


@pytest.mark.parametrize(
    "layer",
    [
        SegmentTransformer(8, 2, 3, dropout=0.1),
        ResidualBlock(LRU(8, 8), 8),
        ResidualBlock(MinGRU(8, 8), 8, Mixing.plain),
    ],
    ids=["transformer", "gated", "plain"],
)
def test_a_recurrent_block_returns_its_input_and_learns(layer: Recurrent) -> None:
    """From any state, also in training; the last projection has a gradient, so that it leaves zero."""
    make_identity(layer, "new")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 8, generator=generator)
    state = tuple(torch.rand(s.shape, generator=generator) for s in layer.initial_state(4))
    output, _ = layer.train()(x, state)
    assert torch.equal(output, x)
    (output * torch.randn(4, 5, 8, generator=generator)).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


def test_an_image_block_returns_what_is_not_negative() -> None:
    block = ImageBlock(3, 3, 1)
    make_identity(block, "new")
    x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block.train()(x), x)
    assert torch.equal(block.eval()(x), x)
    with pytest.raises(ConfigError, match="a residual block that changes the shape cannot begin as the identity"):
        make_identity(ImageBlock(3, 6, 2), "new")


def test_a_linear_layer_and_a_relu_return_what_is_not_negative() -> None:
    row = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Dropout(0.5))
    make_identity(row, "new")
    x = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(row.eval()(x), x)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.Linear(5, 4), "new (Linear) cannot begin as the identity: it maps 5 numbers to 4: add it between layers"),
        (LSTM(4, 4), "new (LSTM) cannot begin as the identity: a recurrent layer without a skip connection"),
        (nn.Sequential(nn.Tanh()), "new.0 (Tanh) cannot begin as the identity: its class has no make_identity()"),
        (nn.BatchNorm1d(4), "new (BatchNorm1d) cannot begin as the identity: batch norm changes every batch"),
    ],
)
def test_what_cannot_be_the_identity_says_why(layer: nn.Module, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_identity(layer, "new")
    assert str(error.value).startswith(told)


def test_layers_behind_a_new_one_move_by_one() -> None:
    found = insertion(["in", "a1", "a2", "out"], ["in", "a1", "a2", "a3", "out"], ["a1"])
    assert found.names == {"in": "in", "a1": "a1", "a2": "a3", "out": "out"}
    assert found.added == {"a1": ("a2",)}
    assert found.grown(["a1", "a2"]) == ("a1", "a2", "a3")
    assert found.new == {"a2"}


def test_several_places_get_equally_many_layers() -> None:
    found = insertion(["in", "a1", "a2", "out"], ["in", *(f"a{n}" for n in range(1, 7)), "out"], ["a2", "in"])
    assert found.names == {"in": "in", "a1": "a3", "a2": "a4", "out": "out"}
    assert found.added == {"in": ("a1", "a2"), "a2": ("a5", "a6")}
    with pytest.raises(ConfigError, match="5 layers instead of 4 cannot be equally many more after each of a1, a2"):
        insertion(["in", "a1", "a2", "out"], ["in", "a1", "a2", "a3", "out"], ["a1", "a2"])
