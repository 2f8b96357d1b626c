"""dni/models/images.py: names, shapes, and the output of each layer, computed with torch's functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dni.errors import PartitionError
from dni.models import Cnn, MlpBn, ModelContext, Resnet
from dni.models.images import ImageModel, ResidualBlock
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
    """Untrained batch norm: normalise every channel of the batch to mean 0 and variance 1."""
    return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("cls", [MlpBn, Cnn, Resnet])
def test_named_layers_and_their_shapes(cls: type[ImageModel]) -> None:
    model, kind = cls(units=4, layers=2).build(ModelContext(7, 0, (3, 10, 9))), cls.name
    assert [name for name, _ in model.named_children()] == NAMES[kind]
    x, shapes = torch.randn(5, 3, 10, 9), []
    for layer in model:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [*SHAPES[kind], (7,)]
    assert model.initial_state(5) == ()


def test_a_layer_of_the_perceptron() -> None:
    model, x = MlpBn(units=6, layers=1).build(ModelContext(10, 0, (1, 4, 4))), torch.randn(5, 1, 4, 4)
    linear = model.layer1[0]  # type: ignore[index]
    hidden = torch.relu(normalised(x.view(5, 16) @ linear.weight.T + linear.bias))
    torch.testing.assert_close(model(x)[0], model.softmax(hidden))  # type: ignore[operator]


def test_a_layer_of_the_convolutional_network() -> None:
    """The first layer has max pooling; the second averages over positions inside the image."""
    model, x = Cnn(units=4, layers=2).build(ModelContext(10, 0, (3, 6, 6))), torch.randn(5, 3, 6, 6)
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
    model = Cnn(units=4, layers=3).build(ModelContext(10, 0, (3, 8, 8)))
    assert [len(chain) for chain in partition(model, split_points=["conv2", "softmax"])] == [1, 2, 1]
    assert [len(chain) for chain in partition(model, stages=4)] == [1, 1, 1, 1]
    with pytest.raises(PartitionError, match=r"stage 0 \(flatten\) has no parameters"):
        partition(MlpBn(units=4, layers=2).build(ModelContext(10, 0, (1, 4, 4))), split_points=["layer1"])
