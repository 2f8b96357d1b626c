"""Find the shapes of activations by running the model on one short example, which works for any model.

The run is on the CPU: torch's meta device would load 80 MB of modules into every worker.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.recurrent import Chain
from workers.build.model import build_chains
from workers.build.own_code import as_config_error
from workers.config.settings import Config

#: Time steps of the example; a model must accept windows of any length.
_STEPS = 2


def activation_shape(config: Config, index: int) -> tuple[int, ...]:
    """Return the shape of one example (or time step) at a stage's output: (D,), or (C, H, W) for feature maps."""
    with torch.random.fork_rng(devices=[]):
        output = _output(config, build_chains(config)[: index + 1])
    return tuple(output.shape[2 if config.data.sequences else 1 :])


def refuse_misfit(config: Config) -> None:
    """Raise ConfigError if the model's layers do not fit each other, or its outputs do not fit the labels."""
    model, data = config.model, config.data
    with torch.random.fork_rng(devices=[]):
        chains = build_chains(config)
        has_state = any(chain.initial_state(1) for chain in chains)
        shape = [*_output(config, chains).shape]
    if has_state != model.carries_state:
        raise ConfigError(
            f"model={model.name}: its layers {'do' if has_state else 'do not'} carry state: write carries_state = "
            f"{has_state} in {type(model).__name__}"
        )
    steps = [1 if model.one_answer else _steps(config)] if data.sequences else []
    expected = [1, *steps, model.symbols]
    if shape != expected:
        raise ConfigError(
            f"model={model.name} gives scores of shape {shape} for an example of shape {[*_example(config).shape]}, "
            f"where data={data.name} needs {expected}: its last layer must give a number for each of {model.symbols} "
            f"labels{' at every step' if steps and not model.one_answer else ''}"
        )


@torch.no_grad()
def _output(config: Config, chains: list[Chain]) -> Tensor:
    """Return the output of the last part. Raises ConfigError if a part cannot take its input."""
    x = _example(config)
    for chain in chains:
        failed = f"model={config.model.name}: {', '.join(chain._modules)} cannot take an input of shape {[*x.shape]}"
        with as_config_error(failed):
            x, _ = chain.eval()(x, chain.initial_state(1))
    return x


def _example(config: Config) -> Tensor:
    """Return a batch of one: (1, T) symbols, (1, T, D) vectors, (1, D) or (1, C, H, W)."""
    shape = tuple(config.model.input_shape or ())
    steps = (_steps(config),) if config.data.sequences else ()
    return torch.zeros(1, *steps, *shape, dtype=torch.get_default_dtype() if shape else torch.int64)


def _steps(config: Config) -> int:
    return min(_STEPS, config.window)
