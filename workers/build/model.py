"""The model from the settings, cut into one part for each stage."""

from __future__ import annotations

import torch
from torch import nn

from dni.errors import ConfigError, PartitionError
from dni.models.base import InitKind, ModelContext
from dni.models.init import initialise
from dni.recurrent import Chain
from dni.stages.partition import partition
from workers.build.own_code import failures_named
from workers.config.settings import Config


def build_chains(config: Config) -> list[Chain]:
    """The whole model from the seed, cut into its parts: one per stage, or several. Raises PartitionError, and
    ConfigError for a model that cannot be built."""
    whole = _whole(config)
    if config.model.split_points:
        return partition(whole, split_points=config.model.split_points)
    try:
        return partition(whole, stages=config.parts)
    except PartitionError as error:
        if config.parts == config.stages:
            raise
        each = config.parts // config.stages
        asked = f"stages={config.stages} with depth.virtual_stages={each} make {config.parts} parts"
        raise PartitionError(f"{asked}: {error}") from error


def _whole(config: Config) -> nn.Sequential:
    model = config.model
    if model.symbols is None or model.input_symbols is None:
        raise ConfigError("model.symbols and model.input_symbols are not set: resolve the settings with the data first")
    shape = tuple(model.input_shape or ())
    context = ModelContext(model.symbols, model.input_symbols, shape, numbers=config.data.numbers)
    torch.manual_seed(config.seed)
    with failures_named(f"model={model.name} cannot be built"):
        whole = model.build(context)
    if not isinstance(whole, nn.Sequential):
        raise ConfigError(
            f"model={model.name}: build gives a {type(whole).__name__}, and must give an nn.Sequential (or dni.Chain) "
            "of layers, between which the model is cut"
        )
    if model.init is not InitKind.default:
        initialise(whole, model.init.name)  # before it is cut: the same for any number of stages
    return whole
