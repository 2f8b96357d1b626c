"""A module that is no row of layers, traced once in each process."""

from __future__ import annotations

import copy
import warnings
from threading import Lock

import torch
from torch import Tensor, nn

from dni.errors import ConfigError, PartitionError
from workers.build.example import real_example
from workers.build.trace import trace
from workers.config.convert import to_plain
from workers.config.settings import Config

#: The newest traced model, by what it was built from. Tracing takes seconds, and a stage asks for its shapes often.
_NEWEST: dict[str, nn.Sequential] = {}

#: Stages may be threads, and torch's tracer has state of its own.
_ALONE = Lock()


def traced(config: Config, built: nn.Module) -> nn.Sequential:
    """Return a copy of the module's parts, of the sizes that are trained on. Raises ConfigError if it has none.

    The random state is afterwards as it was.
    """
    example = real_example(config)
    if not isinstance(example, Tensor):
        raise ConfigError(
            f"model={config.model.name}: a module that is traced takes one tensor, and data={config.data.name} gives "
            f"{', '.join(example)}: return an ordered list of parts"
        )
    key = repr((to_plain(config)["model"], config.seed, example.shape, example.device, torch.get_default_dtype()))
    with _ALONE, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's tracer and its copies warn of torch's own deprecations
        if key not in _NEWEST:
            _NEWEST.clear()
            try:
                _NEWEST[key] = trace(built, example)
            except PartitionError as error:
                raise ConfigError(f"model={config.model.name}: {error}") from error
        return copy.deepcopy(_NEWEST[key])
