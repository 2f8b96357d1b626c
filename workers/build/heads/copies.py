"""The layers whose weights travel upstream to the heads that copy them (`predictor=copied_head`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.predictors.copied_layers import CopiedLayers
from dni.predictors.head_settings import CopiedHead
from workers.build.model import build_chains
from workers.build.own_code import as_config_error
from workers.build.shapes import example_at
from workers.build.trace import TracedPart
from workers.config.settings import Config

#: Layers of the model, in order, by the names that precede those of their weights.
Layers = dict[str, nn.Module]


def copied_layers(config: Config, index: int, shape: tuple[int, ...], following: int) -> Layers:
    """Return new layers for the head after stage `index`, with the model's initial weights.

    They are `following` layers after the cut, and the last layers of the model. Raises ConfigError if these do not take
    a value whose row has this shape, or do not return scores.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        chains = build_chains(config)
        found = _copied([_layers(chain) for chain in chains], index, following)
        _refuse_misfit(config, index, found, example_at(config, chains, shape), shape)
    return found


def copied_weights(config: Config, index: int) -> dict[str, nn.Parameter]:
    """Return the weights, by name, that travel from stage `index` to the one before it, with their initial values."""
    settings = config.predictor.depth
    if not isinstance(settings, CopiedHead) or not config.depth.predicts or not index:
        return {}
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        stages = [_layers(chain) for chain in build_chains(config)]
    copied = {name for cut in range(index) for name in _copied(stages, cut, settings.layers)}
    layers = {name: layer for stage in stages[index:] for name, layer in stage.items() if name in copied}
    return {f"{name}.{own}": weight for name, layer in layers.items() for own, weight in layer.named_parameters()}


def _layers(chain: nn.Module) -> Layers:
    """Return the layers of a stage; of a traced one what it computes from the value alone."""
    found: Layers = {}
    for name, layer in chain.named_children():
        found |= {f"{name}.part": layer.part} if isinstance(layer, TracedPart) else {name: layer}
    return found


def _copied(stages: list[Layers], index: int, following: int) -> Layers:
    last = _last([pair for stage in stages for pair in stage.items()])
    after = {name: layer for stage in stages[index + 1 :] for name, layer in stage.items()}
    below = [name for name in after if name not in last][:following]
    return {name: layer for name, layer in after.items() if name in last or name in below}


def _last(layers: list[tuple[str, nn.Module]]) -> set[str]:
    """Return the names of the last layer with weights, of what follows it, and of norms and such right before it."""
    start = max((n for n, (_, layer) in enumerate(layers) if _has_weights(layer)), default=0)
    while start and (not _has_weights(layers[start - 1][1]) or "Norm" in type(layers[start - 1][1]).__name__):
        start -= 1
    return {name for name, _ in layers[start:]}


def _has_weights(layer: nn.Module) -> bool:
    return next(layer.parameters(), None) is not None


def _refuse_misfit(config: Config, index: int, layers: Layers, value: Tensor, shape: tuple[int, ...]) -> None:
    problem = f"predictor=copied_head: {', '.join(layers)} cannot take the values {shape} that leave stage {index}"
    advice = "use predictor=block_head, or set model.split_points to cuts of the shape that the last layers take"
    with as_config_error(problem, f"; {advice}"), torch.no_grad():
        scores = CopiedLayers(layers, shape).eval()(value)
    if scores.shape[-1] != config.model.symbols:
        raise ConfigError(
            f"predictor=copied_head: {', '.join(layers)} give {scores.shape[-1]} numbers from the values of stage "
            f"{index}, where the labels need {config.model.symbols}: {advice}"
        )
