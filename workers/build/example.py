"""An example of what the first stage reads."""

from __future__ import annotations

import torch

from dni.named_tensors import Value
from workers.config.settings import Config


def example(config: Config, batch: int, steps: int) -> Value:
    """Return zeros: (B, T) symbols, (B, T, D) vectors, (B, D) or (B, C, H, W), or a dict of named tensors."""
    own = config.data.example(batch, steps)
    if own is not None:
        return own
    shape = tuple(config.model.input_shape or ())
    times = (steps,) if config.data.sequences else ()
    return torch.zeros(batch, *times, *shape, dtype=torch.get_default_dtype() if shape else torch.int64)


def real_example(config: Config) -> Value:
    """Return an example of the sizes that are trained on: in a pipeline those of a microbatch."""
    return example(config, config.data.batch // config.microbatches, config.window)
