"""Load the weights of an earlier run into a stage of a new one (`start_from`). All other state begins anew.

Weights are found by the names of layers in the files of all stages, so the earlier run may have had other cuts. The
modules that learn at a cut are loaded if the earlier run had the same cut and the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dni.interfaces.base import Interface
from dni.recurrent import Chain
from dni.stages.base import Stage
from workers.build.model import build_chains
from workers.config.settings import Config
from workers.storage import checkpoint
from workers.storage.record import read_record
from workers.storage.weights_file import is_weights_file, read

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class EarlierStage:
    """The weights of one stage of another run, from its checkpoint."""

    layers: tuple[str, ...]
    weights: Weights
    depth: Mapping[str, Any]  #: state of the interface at its cut in depth
    time: Mapping[str, Any]  #: state of the interface at its cut in time

    def at(self, cut: str, layers: tuple[str, ...]) -> Mapping[str, Any]:
        """Return the state of the interface "depth" or "time" if a stage of these layers has the same cut, else {}."""
        if cut == "depth":  # after the same layer
            return self.depth if layers[-1] == self.layers[-1] else {}
        return self.time if layers == self.layers else {}


def earlier_stages(config: Config) -> Iterator[EarlierStage]:
    """Yield the stages of the checkpoint that `start_from` and `start_step` name; a file of weights is one stage,
    without anything at its cuts. Raises CheckpointError."""
    folder, step = Path(config.start_from or ""), int(config.start_step or 0)
    if is_weights_file(folder):
        whole = tuple(name for chain in chains_without_content(config) for name in layers_of(chain))
        yield EarlierStage(whole, read(folder).tensors, {}, {})
        return
    chains, saved = chains_without_content(read_record(folder)), checkpoint.stages_of(folder, step)
    for index in range(saved):
        state = checkpoint.load(folder, step, index, saved)
        layers = state["stage"].get("layers") or layers_of(chains[index])  # older checkpoints do not name them
        yield EarlierStage(tuple(layers), state["stage"]["module"], state["depth"], state["time"])


def take_weights(config: Config, stage: Stage, depth: Interface | None = None, time: Interface | None = None) -> None:
    """Load the weights of a stage and of its interfaces. Raises CheckpointError if the model is another one."""
    layers, wanted = layers_of(stage.module), stage.module.state_dict()
    found: dict[str, Tensor] = {}
    for earlier in earlier_stages(config):
        found |= {name: value for name, value in earlier.weights.items() if name in wanted}
        for cut, interface in (("depth", depth), ("time", time)):
            if interface is not None:
                _load(interface, earlier.at(cut, layers))
    with checkpoint.fitting(Path(config.start_from or ""), int(config.start_step or 0), 0):
        stage.module.load_state_dict(found)


def learned(state: Mapping[str, Any], place: str) -> Weights:
    """Return the weights at a place of an interface's state (`Interface.learners`); empty if there are none."""
    for key in place.split("."):
        state = state.get(key, {})
    return state


def fits(module: nn.Module, weights: Weights) -> bool:
    """Return whether the weights have the names and shapes of the module's."""
    return {n: v.shape for n, v in module.state_dict().items()} == {n: v.shape for n, v in weights.items()}


def layers_of(chain: Chain) -> tuple[str, ...]:
    """Return the names of the layers, in order."""
    return tuple(chain._modules)


def chains_without_content(config: Config) -> list[Chain]:
    """Build the parts of a model with names and shapes alone, on the meta device."""
    with torch.device("meta"):
        return build_chains(config)


def _load(interface: Interface, state: Mapping[str, Any]) -> None:
    """Load the modules that learn at a cut, if they fit."""
    for place, module in interface.learners.items():
        weights = learned(state, place)
        if weights and fits(module, weights):
            module.load_state_dict(weights)
