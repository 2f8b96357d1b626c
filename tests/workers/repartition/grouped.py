"""An optimizer that sorts its parameters into groups of its own: all vectors, which decay, before all matrices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from dni.optimizers import Optimizer


@dataclass
class Grouped(Optimizer):
    """Adam in two groups."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        known = list(parameters)
        vectors, matrices = ([p for p in known if (p.dim() < 2) is small] for small in (True, False))
        groups = [{"params": vectors, "weight_decay": 0.1}, {"params": matrices}]
        return torch.optim.Adam([group for group in groups if group["params"]], self.learning_rate)
