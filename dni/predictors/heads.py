"""Heads: small models of the labels, from a value that leaves a stage to scores."""

from __future__ import annotations

from torch import nn


def norm_head(shape: tuple[int, ...], classes: int, *, hidden: int = 0, pool_grid: int = 4) -> nn.Sequential:
    """Return a layer norm and a linear layer, with `hidden` GELU units between the two if above 0.

    `shape` is (D,), or (C, H, W) for feature maps, which are averaged to at most `pool_grid` cells a side first.
    """
    below: list[nn.Module] = []
    features = shape[0]
    if len(shape) > 1:
        rows, columns = (min(pool_grid, size) for size in shape[1:])
        below = [nn.AdaptiveAvgPool2d((rows, columns)), nn.Flatten()]
        features *= rows * columns
    middle: list[nn.Module] = [nn.Linear(features, hidden), nn.GELU()] if hidden else []
    last = nn.Linear(hidden or features, classes)
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*below, nn.LayerNorm(features), *middle, last)
