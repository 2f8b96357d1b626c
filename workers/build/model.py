"""The model from the settings, cut into one part for each stage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn

from dni.errors import ConfigError, PartitionError
from dni.models.base import InitKind, ModelContext
from dni.models.init import initialise
from dni.precision import AutocastChain
from dni.recurrent import Chain, Recurrent
from dni.stages.partition import partition
from workers.build.own_code import failures_named
from workers.build.traced import traced
from workers.config.schema import Precision
from workers.config.settings import Config


def build_chains(config: Config) -> list[Chain]:
    """The whole model from the seed, cut into its parts: one per stage, or several. Raises PartitionError, and
    ConfigError for a model that cannot be built."""
    chains = _partition(config, _whole(config))
    dtype = dtype_of(config)
    if dtype is None:
        return chains
    return [AutocastChain(chain, dtype, last=chain is chains[-1]) for chain in chains]


def dtype_of(config: Config) -> torch.dtype | None:
    """Return the element type that autocast uses; None: it is off."""
    return {Precision.fp32: None, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}[config.precision]


def _partition(config: Config, whole: nn.Sequential) -> list[Chain]:
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


def _as_layers(config: Config, built: object) -> nn.Sequential:
    """Return what a model's `build` gave as a row of layers; a module that is no row is traced."""
    parts = built
    if isinstance(built, Mapping):
        parts = nn.Sequential(OrderedDict(built))
    elif isinstance(built, list | tuple):
        parts = nn.Sequential(*built)
    elif isinstance(built, nn.Module) and not isinstance(built, nn.Sequential | Recurrent):
        parts = traced(config, built)
    if not isinstance(parts, nn.Sequential):
        raise ConfigError(
            f"model={config.model.name}: build gives a {type(built).__name__}, and must give an nn.Sequential (or "
            "dni.Chain) of layers, a list of parts, or an nn.Module that can be traced"
        )
    return parts


def _whole(config: Config) -> nn.Sequential:
    model = config.model
    if model.symbols is None or model.input_symbols is None:
        raise ConfigError("model.symbols and model.input_symbols are not set: resolve the settings with the data first")
    torch.manual_seed(config.seed)
    with failures_named(f"model={model.name} cannot be built"):
        built = model.build(ModelContext(model.symbols, model.input_symbols, tuple(model.input_shape or ())))
    whole = _as_layers(config, built)
    if model.init is not InitKind.default:
        initialise(whole, model.init.name)  # before it is cut: the same for any number of stages
    return whole
