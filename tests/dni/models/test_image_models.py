"""dni/models/images.py: names, shapes, and what each layer computes, worked out with torch's functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dni.errors import ConfigError, PartitionError
from dni.models import image_model
from dni.models.images import ResidualBlock
from dni.stages.partition import partition

NAMES = {
    "mlp_bn": ["flatten", "layer1", "layer2", "softmax"],
    "cnn": ["conv1", "conv2", "softmax"],
    "resnet": ["stem", "block1", "block2", "block3", "block4", "block5", "block6", "softmax"],
}
#: Channels, height and width of what every layer but the last gives for an image of 3 x 10 x 9, with 4 units.
SHAPES = {
    "mlp_bn": [(270,), (4,), (4,)],
    "cnn": [(4, 5, 5), (4, 3, 3)],
    "resnet": [(4, 10, 9), *[(4, 10, 9)] * 2, *[(8, 5, 5)] * 2, *[(16, 3, 3)] * 2],
}


def normalised(x: Tensor) -> Tensor:
    """Batch norm as it starts: every channel of the batch to mean 0 and variance 1."""
    return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("kind", NAMES)
def test_named_layers_and_their_shapes(kind: str) -> None:
    model = image_model(kind, (3, 10, 9), classes=7, units=4, layers=2)
    assert [name for name, _ in model.named_children()] == NAMES[kind]
    x, shapes = torch.randn(5, 3, 10, 9), []
    for layer in model:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [*SHAPES[kind], (7,)]
    assert model.initial_state(5) == ()


def test_a_layer_of_the_perceptron() -> None:
    model, x = image_model("mlp_bn", (1, 4, 4), 10, 6, 1), torch.randn(5, 1, 4, 4)
    linear = model.layer1[0]  # type: ignore[index]
    hidden = torch.relu(normalised(x.view(5, 16) @ linear.weight.T + linear.bias))
    torch.testing.assert_close(model(x)[0], model.softmax(hidden))  # type: ignore[operator]


def test_a_layer_of_the_convolutional_network() -> None:
    """The first pools the maximum, the second the mean of what lies inside the image."""
    model, x = image_model("cnn", (3, 6, 6), 10, 4, 2), torch.randn(5, 3, 6, 6)
    weights = [layer[0].weight for layer in (model.conv1, model.conv2)]  # type: ignore[index]
    first = F.max_pool2d(torch.relu(normalised(F.conv2d(x, weights[0], padding=2))), 3, 2, padding=1)
    second = torch.relu(normalised(F.conv2d(first, weights[1], padding=2)))
    y = model.conv2(first)  # type: ignore[operator]
    assert y.shape == (5, 4, 2, 2)
    torch.testing.assert_close(y[:, :, 0, 0], second[:, :, :2, :2].mean((2, 3)))
    torch.testing.assert_close(y[:, :, 1, 1], second[:, :, 1:, 1:].mean((2, 3)))


@pytest.mark.parametrize(("inputs", "stride"), [(4, 1), (2, 1), (4, 2)])
def test_a_residual_block(inputs: int, stride: int) -> None:
    block, x = ResidualBlock(inputs, 4, stride), torch.randn(5, inputs, 6, 6)
    inner = torch.relu(normalised(F.conv2d(x, block.first[0].weight, stride=stride, padding=1)))
    inner = normalised(F.conv2d(inner, block.second[0].weight, padding=1))
    same = inputs == 4 and stride == 1
    short = x if same else normalised(F.conv2d(x, block.shortcut[0].weight, stride=stride))  # type: ignore[index]
    torch.testing.assert_close(block(x), torch.relu(short + inner))


def test_cut_by_name_and_by_balance() -> None:
    model = image_model("cnn", (3, 8, 8), 10, 4, 3)
    assert [len(chain) for chain in partition(model, cut_at=["conv2", "softmax"])] == [1, 2, 1]
    assert [len(chain) for chain in partition(model, stages=4)] == [1, 1, 1, 1]
    with pytest.raises(PartitionError, match=r"stage 0 \(flatten\) has no parameters"):
        partition(image_model("mlp_bn", (1, 4, 4), 10, 4, 2), cut_at=["layer1"])


def test_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="no image model named 'lstm': use mlp_bn, cnn, resnet"):
        image_model("lstm", (1, 4, 4), 10, 4, 2)
