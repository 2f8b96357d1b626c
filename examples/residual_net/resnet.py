"""A residual net for images, as a dict of parts that may be cut in the middle of its residual blocks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from dni.models import ModelContext

Tensors = dict[str, Tensor]


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch norm."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """relu(x + f(x)) with two convolutions in f (He et al. 2016); a 1x1 convolution projects x if its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))


class Opening(nn.Module):
    """The first half of a block: its inner activation, and beside it the block's input for the skip connection."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.first = block.first

    def forward(self, x: Tensor) -> Tensors:
        return {"skip": x, "inner": torch.relu(self.first(x))}


class Closing(nn.Module):
    """The second half of a block, which adds the skip connection."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.second, self.shortcut = block.second, block.shortcut

    def forward(self, x: Tensors) -> Tensor:
        return torch.relu(self.shortcut(x["skip"]) + self.second(x["inner"]))


def whole(context: ModelContext, width: int = 16, blocks: int = 3) -> nn.Sequential:
    """Return the unsplit net: a stem, blocks of `width`, 2 `width`, 4 `width`, ... channels, a linear classifier."""
    sizes = [width * 2**n for n in range(blocks)]
    stem = nn.Sequential(*convolution(context.input_shape[0], width, 3), nn.ReLU())
    pairs = zip([width, *sizes], sizes, strict=False)
    body = [Block(inputs, outputs, stride=1 if n == 0 else 2) for n, (inputs, outputs) in enumerate(pairs)]
    scores = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], context.symbols))
    return nn.Sequential(stem, *body, scores)


def parts(context: ModelContext, width: int = 16, blocks: int = 3) -> dict[str, nn.Module]:
    """Return the parts of `whole`; each block is two of them, `open0` and `close0`, `open1` and `close1`, ..."""
    stem, *body, scores = whole(context, width, blocks)
    found: dict[str, nn.Module] = {"stem": stem}
    for n, block in enumerate(cast(list[Block], body)):
        found |= {f"open{n}": Opening(block), f"close{n}": Closing(block)}
    return {**found, "scores": scores}
