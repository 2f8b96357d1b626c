"""The model from the settings, cut into one part for each stage."""

from __future__ import annotations

import torch

from dni.errors import ConfigError, PartitionError
from dni.models import char_mlp, image_model, initialise, language_model, two_clocks
from dni.recurrent import Chain
from dni.stages.partition import partition
from workers.config.schema import InitKind, ModelKind
from workers.config.settings import Config


def build_chains(config: Config) -> list[Chain]:
    """The whole model from the seed, cut into its parts: one per stage, or several. Raises PartitionError."""
    model, symbols = config.model, config.model.symbols
    if symbols is None or model.input_symbols is None:
        raise ConfigError("model.symbols and model.input_symbols are not set: resolve the settings with the data first")
    torch.manual_seed(config.seed)
    if model.image is not None:
        whole = image_model(model.kind.name, model.image, symbols, model.units, model.layers, dropout=model.dropout)
    elif model.kind is ModelKind.two_clocks:
        whole = two_clocks(config.data.side**2 + 1, model.units, symbols)
    elif model.kind is ModelKind.mlp:
        whole = char_mlp(symbols, model.units, model.layers, inputs=model.input_symbols, dropout=model.dropout)
    else:
        whole = language_model(
            model.kind.name, symbols, model.units, model.layers,
            inputs=model.input_symbols, heads=model.heads, memory=model.memory, dropout=model.dropout,
        )  # fmt: skip
    if model.init is not InitKind.default:
        initialise(whole, model.init.name)  # before it is cut: the same for any number of stages
    if model.cut_at:
        return partition(whole, cut_at=model.cut_at)
    try:
        return partition(whole, stages=config.parts)
    except PartitionError as error:
        if config.parts == config.stages:
            raise
        chunks = f"stages={config.stages} with depth.chunks={config.parts // config.stages} make {config.parts} parts"
        raise PartitionError(f"{chunks}: {error}") from error


def activation_shape(config: Config, index: int) -> tuple[int, ...]:
    """What one example, or one time step of it, is at the output of a stage: (D,), or (C, H, W) of feature maps."""
    if config.model.image is None:
        return (config.model.units,)  # between any two layers
    with torch.device("meta"):  # shapes alone
        x = torch.empty(1, *config.model.image)
        for chain in build_chains(config)[: index + 1]:
            x, _ = chain.eval()(x)
    return tuple(x.shape[1:])
