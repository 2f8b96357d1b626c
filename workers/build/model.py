"""Build the model and split it into parts for the stages."""

from __future__ import annotations

import torch
from torch import nn

from dni.errors import ConfigError, PartitionError
from dni.models.base import InitKind, ModelContext
from dni.models.init import initialise
from dni.recurrent import Chain
from dni.stages.partition import partition
from workers.build.own_code import as_config_error
from workers.config.settings import Config


def build_chains(config: Config) -> list[Chain]:
    """Build the whole model from the seed and split it into one part per stage, or several (`Config.parts`).

    Raises PartitionError if it cannot be split, ConfigError if it cannot be built.
    """
    whole = _whole(config)
    if config.model.split_points:
        return partition(whole, split_points=config.model.split_points)
    try:
        return partition(whole, stages=config.parts)
    except PartitionError as error:
        if config.parts == config.stages:
            raise
        each = config.parts // config.stages
        split = f"stages={config.stages} with depth.virtual_stages={each} make {config.parts} parts"
        raise PartitionError(f"{split}: {error}") from error


def _whole(config: Config) -> nn.Sequential:
    model = config.model
    if model.symbols is None or model.input_symbols is None:
        raise ConfigError("model.symbols and model.input_symbols are not set: resolve the settings with the data first")
    torch.manual_seed(config.seed)
    with as_config_error(f"model={model.name} cannot be built"):
        whole = model.build(ModelContext(model.symbols, model.input_symbols, tuple(model.input_shape or ())))
    if not isinstance(whole, nn.Sequential):
        raise ConfigError(
            f"model={model.name}: build gives a {type(whole).__name__}, and must give an nn.Sequential (or dni.Chain) "
            "of layers, so that the model can be split between them"
        )
    if model.init is not InitKind.default:
        initialise(whole, model.init.name)  # before the split, so that weights do not depend on the number of stages
    return whole
