"""Build the model and split it into parts for the stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from dni.errors import ConfigError, PartitionError
from dni.models.base import InitKind, ModelContext
from dni.models.init import initialise
from dni.recurrent import Chain, Recurrent
from dni.stages.autocast import AutocastChain
from dni.stages.partition import partition
from workers.build.own_code import as_config_error
from workers.build.traced import traced
from workers.config.schema import Precision
from workers.config.settings import Config


def build_chains(config: Config) -> list[Chain]:
    """Build the whole model from the seed and split it into one part per stage, or several (`Config.parts`).

    Raises PartitionError if it cannot be split, ConfigError if it cannot be built.
    """
    chains = _partition(config, build_whole(config))
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
    with parts_explained(config):
        return partition(whole, stages=config.parts)


@contextmanager
def parts_explained(config: Config) -> Iterator[None]:
    """A PartitionError inside says how many parts there are to be where these are more than stages."""
    try:
        yield
    except PartitionError as error:
        if config.parts == config.stages:
            raise
        each = config.parts // config.stages
        split = f"stages={config.stages} with depth.virtual_stages={each} make {config.parts} parts"
        raise PartitionError(f"{split}: {error}") from error


def _as_layers(config: Config, built: object) -> nn.Sequential:
    """Return what a model's `build` gave as a row of layers; a module that is no row is traced."""
    parts = built
    if isinstance(built, Mapping | list | tuple):
        parts = _as_row(config, built if isinstance(built, Mapping) else {str(n): each for n, each in enumerate(built)})
    elif isinstance(built, nn.Module) and not isinstance(built, nn.Sequential | Recurrent):
        parts = traced(config, built)
    if not isinstance(parts, nn.Sequential):
        raise ConfigError(
            f"model={config.model.name}: build gives a {type(built).__name__}, and must give an nn.Sequential (or "
            "dni.Chain) of layers, a list of parts, or an nn.Module that can be traced"
        )
    return parts


def _as_row(config: Config, parts: Mapping[str, object]) -> nn.Sequential:
    """Return parts by name as a row of layers. Raises ConfigError if they are none."""
    row, model = nn.Sequential(), f"model={config.model.name}"
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            raise ConfigError(f"{model}: part {name} is a {type(part).__name__}, and must be an nn.Module")
        with as_config_error(f"{model}: part {name!r} needs another name"):
            row.add_module(name, part)
    return row


def build_whole(config: Config) -> nn.Sequential:
    """Build the whole model from the seed, as a row of layers. Raises ConfigError if it cannot be built."""
    model = config.model
    if model.symbols is None or model.input_symbols is None:
        raise ConfigError("model.symbols and model.input_symbols are not set: resolve the settings with the data first")
    shape = tuple(model.input_shape or ())
    context = ModelContext(model.symbols, model.input_symbols, shape, numbers=config.data.numbers)
    torch.manual_seed(config.seed)
    with as_config_error(f"model={model.name} cannot be built"):
        built = model.build(context)
    whole = _as_layers(config, built)
    if model.init is not InitKind.default:
        initialise(whole, model.init.name)  # before the split, so that weights do not depend on the number of stages
    return whole
