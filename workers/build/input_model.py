"""From settings to the model of what the previous stage sends, for a stage that predicts it."""

from __future__ import annotations

import math

import torch

from dni.errors import ConfigError
from dni.interfaces.synthetic_input import InputInterface, flat_inputs, sequence_inputs, symbol_inputs
from dni.methods.base import InputKind
from dni.recurrent import Chain
from dni.stages.base import Stage
from workers.build.interfaces import MOST_WEIGHTS
from workers.build.model import build_chains
from workers.build.shapes import activation_shape
from workers.config.settings import Config


def input_interface(config: Config, index: int, stage: Stage) -> InputInterface:
    """What stage `index`, 1 or more, is given in the place of what it does not wait for."""
    module = _predictor(config, index).to(stage.device)
    optimizer = torch.optim.Adam(module.parameters(), config.predictor.inputs.learning_rate, fused=True)
    return InputInterface(module, optimizer, memory=config.depth.max_in_flight + 2, device=stage.device)


def refuse_large_inputs(config: Config) -> None:
    """Raise ConfigError if the model of some stage's inputs would have too many weights."""
    hidden = config.predictor.inputs.hidden
    for index in range(1, config.stages if config.depth.inputs is InputKind.synthetic else 0):
        with torch.device("meta"):  # counted, not made
            weights = sum(p.numel() for p in _predictor(config, index).parameters())
        if weights > MOST_WEIGHTS:
            raise ConfigError(
                f"predictor.inputs.hidden={hidden} would make a model of {weights:,} weights for the inputs of stage "
                f"{index}, more than {MOST_WEIGHTS:,}: set predictor.inputs.hidden=128, say"
            )


def _predictor(config: Config, index: int) -> Chain:
    model, hidden = config.model, config.predictor.inputs.hidden
    shape = activation_shape(config, index - 1)
    with torch.device("meta"):
        carries_state = any(chain.initial_state(1) for chain in build_chains(config)[:index])
    torch.manual_seed(config.seed * 1000 + 900 + index)  # after what draws from the seed of the network
    if model.input_shape is not None:
        return flat_inputs(math.prod(model.input_shape), shape, hidden)
    if carries_state:
        return sequence_inputs(model.input_symbols or 0, shape[0], hidden)
    return symbol_inputs(model.input_symbols or 0, shape[0])
