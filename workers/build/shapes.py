"""What goes from stage to stage, found by running the model once: any model has its shapes known that way.

It is run for real, on the CPU and on one short example: torch's meta device would load 80 MB of modules into every
worker.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.recurrent import Chain
from workers.build.model import build_chains
from workers.build.own_code import as_config_error
from workers.config.settings import Config

#: Steps of the example; a model must take windows of any length.
_STEPS = 2


def activation_shape(config: Config, index: int) -> tuple[int, ...]:
    """What one example, or one time step of it, is at the output of a stage: (D,), or (C, H, W) of feature maps."""
    with torch.random.fork_rng(devices=[]):
        output = _output(config, build_chains(config)[: index + 1])
    return tuple(output.shape[2 if config.data.sequences else 1 :])


def refuse_misfit(config: Config) -> None:
    """Raise ConfigError for a model whose layers do not go together, or whose answers are not what is asked for."""
    model, data = config.model, config.data
    with torch.random.fork_rng(devices=[]):
        chains = build_chains(config)
        carries = any(chain.initial_state(1) for chain in chains)
        shape = [*_output(config, chains).shape]
    if carries != model.carries_state:
        raise ConfigError(
            f"model={model.name}: its layers {'do' if carries else 'do not'} carry state: write carries_state = "
            f"{carries} in {type(model).__name__}"
        )
    steps = [1 if model.one_answer else _steps(config)] if data.sequences else []
    wanted = [1, *steps, model.symbols]
    if shape != wanted:
        raise ConfigError(
            f"model={model.name} gives scores of shape {shape} for an example of shape {[*_example(config).shape]}, "
            f"where data={data.name} needs {wanted}: its last layer must give a number for each of {model.symbols} "
            f"labels{' at every step' if steps and not model.one_answer else ''}"
        )


@torch.no_grad()
def _output(config: Config, chains: list[Chain]) -> Tensor:
    """Of the last of these parts. Raises ConfigError for one that cannot take what comes."""
    x = _example(config)
    for chain in chains:
        failed = f"model={config.model.name}: {', '.join(chain._modules)} cannot take an input of shape {[*x.shape]}"
        with as_config_error(failed):
            x, _ = chain.eval()(x, chain.initial_state(1))
    return x


def _example(config: Config) -> Tensor:
    """Of a batch of one: (1, T) symbols, (1, T, D) vectors, (1, D) or (1, C, H, W)."""
    shape = tuple(config.model.input_shape or ())
    steps = (_steps(config),) if config.data.sequences else ()
    return torch.zeros(1, *steps, *shape, dtype=torch.get_default_dtype() if shape else torch.int64)


def _steps(config: Config) -> int:
    return min(_STEPS, config.window)
