"""Values, labels and a small stage for tests of misuse."""

from __future__ import annotations

import torch
from torch import nn

from dni import Stage

X, Y = torch.randn(4, 6), torch.tensor([0, 1, 2, 3])


def sgd(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], 0.1)


def stage(module: nn.Module | None = None, **settings: object) -> Stage:
    module = module or nn.Linear(6, 5)
    return Stage(module, sgd(module), **settings)  # type: ignore[arg-type]
