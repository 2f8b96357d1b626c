"""A linear model of a stage's input, from its output: what the output has kept of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Reconstruction(nn.Module):
    """The relative squared error of a linear reconstruction of the input x from the output v:

        E(v, x) = rows sum |R v + c - x|^2 / sum |x|^2,

    with sums over all rows. For feature maps R is a 1x1 convolution, and x is averaged to the size of v first. Symbols
    are one-hot codes. R and c begin with zeros, where E is the number of rows and has no gradient with respect to v.

    Args:
        shape: of a row of the output: (D,), or (C, H, W).
        inputs: shape of a row of the input: (D,), or (C, H, W); () of symbols.
        symbols: number of input symbols; 0 if inputs are numbers.
    """

    def __init__(self, shape: tuple[int, ...], inputs: tuple[int, ...], symbols: int = 0) -> None:
        super().__init__()
        self.symbols, self.maps = symbols, len(shape) > 1
        self.model: nn.Module
        if self.maps:
            self.model = nn.Conv2d(shape[0], inputs[0], 1)
        else:
            self.model = nn.Linear(shape[0], symbols or math.prod(inputs))
        for parameter in self.model.parameters():
            nn.init.zeros_(parameter)

    def forward(self, value: Tensor, x: Tensor) -> tuple[Tensor, int]:
        """Return E and the number of rows, for an output (B, T, D), (B, D) or (B, C, H, W) and the input."""
        found: Tensor = self.model(value)
        rows = math.prod(value.shape[:-1]) if not self.maps else len(value)
        if self.symbols:
            right = found.gather(-1, x.unsqueeze(-1)).sum()
            return found.pow(2).sum() - 2 * right + rows, rows
        x = F.adaptive_avg_pool2d(x, (found.shape[-2], found.shape[-1])) if self.maps else x.reshape(found.shape)
        return rows * (found - x).pow(2).sum() / x.pow(2).sum().clamp(min=torch.finfo(x.dtype).tiny), rows
