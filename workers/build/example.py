"""An example of what the first stage reads."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.config.settings import Config


def example(config: Config, batch: int, steps: int) -> Tensor:
    """Return zeros: (B, T) symbols, (B, T, D) vectors, (B, D) or (B, C, H, W)."""
    shape = tuple(config.model.input_shape or ())
    times = (steps,) if config.data.sequences else ()
    return torch.zeros(batch, *times, *shape, dtype=torch.get_default_dtype() if shape else torch.int64)


def real_example(config: Config) -> Tensor:
    """Return an example of the sizes that are trained on: in a pipeline those of a microbatch."""
    return example(config, config.data.batch // config.microbatches, config.window)
