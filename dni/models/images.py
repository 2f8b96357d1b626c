"""Image classifiers: feed-forward layers with batch norm."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.models.base import Layered, ModelContext
from dni.models.dropout import with_dropout
from dni.models.init import zero
from dni.recurrent import Chain
from dni.types import Inputs


@dataclass
class ImageModel(Layered):
    """Images (B, C, H, W) -> scores of the classes (B, V). The last layer is `softmax`, a linear layer."""

    reads: ClassVar[Inputs | None] = Inputs.images
    batch_norm: ClassVar[bool] = True

    def block(self, shape: tuple[int, ...], blocks: int) -> nn.Module | None:
        if not self.feature_maps:
            return None
        channels = shape[0]
        return nn.Sequential(*(nn.Sequential(*_convolution(channels, channels, 3), nn.ReLU()) for _ in range(blocks)))

    @abstractmethod
    def named_layers(self, shape: tuple[int, ...], classes: int) -> dict[str, nn.Module]:
        """Return all layers by name, for images of shape (C, H, W)."""

    def build(self, context: ModelContext) -> Chain:
        return Chain(OrderedDict(self.named_layers(context.input_shape, context.symbols)))


@dataclass
class MlpBn(ImageModel):
    """`flatten`, then `layer1` ... `layerN`, each linear, batch norm, relu, with dropout after each relu.

    The activations between layers are (B, units).
    """

    name: ClassVar[str] = "mlp_bn"

    def named_layers(self, shape: tuple[int, ...], classes: int) -> dict[str, nn.Module]:
        channels, height, width = shape
        named: dict[str, nn.Module] = {"flatten": nn.Flatten()}
        for i in range(1, self.layers + 1):
            linear = nn.Linear(channels * height * width if i == 1 else self.units, self.units)
            relu = with_dropout(nn.ReLU(), self.dropout)
            named[f"layer{i}"] = nn.Sequential(linear, nn.BatchNorm1d(self.units), relu)
        return {**named, "softmax": nn.Linear(self.units, classes)}


@dataclass
class Cnn(ImageModel):
    """`conv1` ... `convN` of `units` channels, each 5x5, batch norm, relu and 3x3 pooling with stride 2.

    The first layer has max pooling and the others average pooling, as in Jaderberg et al. 2017, where N = 3 and units =
    128. `softmax` flattens the feature maps, and has dropout before its linear layer.
    """

    name: ClassVar[str] = "cnn"
    feature_maps: ClassVar[bool] = True

    def named_layers(self, shape: tuple[int, ...], classes: int) -> dict[str, nn.Module]:
        channels, height, width = shape
        named: dict[str, nn.Module] = {}
        for i in range(1, self.layers + 1):
            pool = nn.MaxPool2d(3, 2, padding=1) if i == 1 else nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
            convolution = _convolution(channels if i == 1 else self.units, self.units, 5)
            named[f"conv{i}"] = nn.Sequential(*convolution, nn.ReLU(), pool)
            height, width = -(-height // 2), -(-width // 2)
        flat, features = with_dropout(nn.Flatten(), self.dropout), self.units * height * width
        return {**named, "softmax": nn.Sequential(flat, nn.Linear(features, classes))}


@dataclass
class Resnet(ImageModel):
    """`stem`, then `block1` ... `block3N`, residual (He et al. 2016), of `units`, 2 `units` and 4 `units` channels.

    `softmax` averages over positions, and has dropout before its linear layer.
    """

    name: ClassVar[str] = "resnet"
    feature_maps: ClassVar[bool] = True

    def named_layers(self, shape: tuple[int, ...], classes: int) -> dict[str, nn.Module]:
        units, inputs = self.units, self.units
        named: dict[str, nn.Module] = {"stem": nn.Sequential(*_convolution(shape[0], units, 3), nn.ReLU())}
        for i in range(3 * self.layers):
            group, within = divmod(i, self.layers)
            outputs = units * 2**group
            named[f"block{i + 1}"] = ResidualBlock(inputs, outputs, 2 if group and not within else 1)
            inputs = outputs
        flat = with_dropout(nn.Flatten(), self.dropout)
        named["softmax"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), flat, nn.Linear(inputs, classes))
        return named


class ResidualBlock(nn.Module):
    """relu(x + f(x)) with f two 3x3 convolutions with batch norm. A 1x1 convolution projects x if the shape changes."""

    def __init__(self, inputs: int, units: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, units, 3, stride)
        self.second = _convolution(units, units, 3)
        same = inputs == units and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, units, 1, stride)

    def make_identity(self) -> None:
        """Zero f through the weights of its last batch norm (Goyal et al. 2017). x must come from a relu.

        Raises ConfigError for a block that changes the shape.
        """
        if not isinstance(self.shortcut, nn.Identity):
            raise ConfigError("a residual block that changes the shape cannot begin as the identity: add it elsewhere")
        zero(self.second[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, units, H / stride, W / stride), rounded up."""
        return torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))


def _convolution(inputs: int, units: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution without bias, followed by batch norm."""
    convolution = nn.Conv2d(inputs, units, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(units))
