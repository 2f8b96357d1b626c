"""Blocks like the model's, for the heads at its cuts."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from dni.predictors.window_block import as_block
from dni.recurrent import Chain
from workers.build.model import build_chains
from workers.build.shapes import example_at
from workers.build.trace import TracedPart
from workers.config.settings import Config


def blocks_like(config: Config, index: int, shape: tuple[int, ...], blocks: int) -> nn.Module | None:
    """Return new blocks for a value that leaves stage `index`, of the model's own kind; None: it has none.

    They are those of `dni.models.Model.block`, or else copies of the nearest block among the layers, with the initial
    weights of the model. Nearest is the last one of the stage, or of the stages before it, or else the next one.
    """
    own = config.model.block(shape, blocks)
    if own is not None:
        return own
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        chains = build_chains(config)
        value = example_at(config, chains, shape)
        found = (as_block(layer, value) for layer in _nearest(chains, index))
        block = next((block for block in found if block is not None), None)
    return None if block is None else nn.Sequential(*(copy.deepcopy(block) for _ in range(blocks)))


def _nearest(chains: list[Chain], index: int) -> Iterator[nn.Module]:
    before, after = chains[: index + 1], chains[index + 1 :]
    layers = [*reversed([layer for chain in before for layer in chain]), *(layer for chain in after for layer in chain)]
    for layer in layers:
        yield layer.part if isinstance(layer, TracedPart) else layer  # of one tensor, whatever else crosses the cut
