"""A plain SGD optimizer for one module."""

from __future__ import annotations

import torch
from torch import nn


def sgd(module: nn.Module, rate: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), rate)
