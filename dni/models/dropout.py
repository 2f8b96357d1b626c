"""Dropout after a layer."""

from __future__ import annotations

from torch import nn


def with_dropout(layer: nn.Module, rate: float) -> nn.Module:
    """Return the layer followed by dropout of its output; at rate 0 the layer alone, which draws no random numbers."""
    return nn.Sequential(layer, nn.Dropout(rate)) if rate else layer
