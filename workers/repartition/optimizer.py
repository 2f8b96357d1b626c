"""What optimizers keep of every parameter follows it by its name to the optimizer of another part."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from dni.recurrent import Chain
from workers.build.optimizer import build_optimizer
from workers.config.settings import Config
from workers.repartition.matches import Layers
from workers.repartition.saved import SavedPart

Content = dict[str, Any]


def optimizer_state(
    config: Config, saved: Sequence[SavedPart], layers: Layers, module: nn.Module, optimizer: torch.optim.Optimizer
) -> Content:
    """A state dict for `optimizer`, which has just been made of the parameters of `module`.

    A group of parameters has the settings that the group of its first parameter had.
    """
    kept: dict[str, Any] = {}
    groups: dict[str, Content] = {}
    for part in saved:
        state = part.state["stage"]["optimizer"]
        by_index = dict(enumerate(_saved_names(config, part, layers)))
        kept |= {by_index[index]: value for index, value in state["state"].items()}
        for group in state["param_groups"]:
            groups |= {by_index[index]: group for index in group["params"]}
    fresh, names = optimizer.state_dict(), parameter_names(module, optimizer)
    return {
        "state": {index: kept[name] for index, name in enumerate(names) if name in kept},
        "param_groups": [
            _group(group, [groups[name] for name in (names[index] for index in group["params"]) if name in groups])
            for group in fresh["param_groups"]
        ],
    }


def parameter_names(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Of an optimizer's parameters, in the order in which its state dict numbers them."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _saved_names(config: Config, part: SavedPart, layers: Layers) -> list[str]:
    """Of the optimizer that the part was saved with; it is made once more, as it may have sorted its parameters."""
    chain = Chain(OrderedDict((name, layers[name]) for name in part.layers))
    optimizer = build_optimizer(config, chain, _owned_before(part, layers), part.place)
    return parameter_names(chain, optimizer)


def _owned_before(part: SavedPart, layers: Layers) -> frozenset[str]:
    """Return the names of the part's parameters that an earlier layer of the model has, too."""
    before = list(takewhile(lambda name: name != part.layers[0], layers))
    earlier = {id(each) for name in before for each in layers[name].parameters()}
    own = nn.ModuleDict({name: layers[name] for name in part.layers}).named_parameters()
    return frozenset(name for name, each in own if id(each) in earlier)


def _group(fresh: Content, earlier: Sequence[Mapping[str, Any]]) -> Content:
    settings = {key: value for key, value in (earlier[0] if earlier else {}).items() if key != "params"}
    return {**fresh, **settings}
