"""Weights of an earlier run for a stage of a new one: `start_from`. Optimizers, schedules and states begin anew.

Weights are looked up by the names of layers in the files of all stages, so that the earlier run may have been cut
elsewhere. What learns at a cut comes along where there was the same cut, and the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dni.interfaces.base import Interface
from dni.interfaces.local_objective import LocalObjective
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
    """What a checkpoint holds of one stage of another run."""

    layers: tuple[str, ...]
    weights: Weights
    depth: Mapping[str, Any]  #: state of the interface at its cut in depth
    time: Mapping[str, Any]  #: and of that in time

    def at(self, cut: str, layers: tuple[str, ...]) -> Mapping[str, Any]:
        """The state of the interface of "depth" or "time" if a stage of these layers has the same cut, else nothing."""
        if cut == "depth":  # behind the same layer
            return self.depth if layers[-1] == self.layers[-1] else {}
        return self.time if layers == self.layers else {}


def earlier_stages(config: Config) -> Iterator[EarlierStage]:
    """The stages of the checkpoint that `start_from` and `start_step` name, one at a time; a file of weights is one
    stage, with nothing at its cuts. Raises CheckpointError."""
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
    """Load a new stage and what learns at its cuts. Raises CheckpointError if the model is not the same."""
    layers, wanted = layers_of(stage.module), stage.module.state_dict()
    found: dict[str, Tensor] = {}
    for earlier in earlier_stages(config):
        found |= {name: value for name, value in earlier.weights.items() if name in wanted}
        for cut, interface in (("depth", depth), ("time", time)):
            if interface is not None:
                _teach(interface, earlier.at(cut, layers))
    with checkpoint.fitting(Path(config.start_from or ""), int(config.start_step or 0), 0):
        stage.module.load_state_dict(found)


def learned(state: Mapping[str, Any]) -> Weights:
    """The weights of the predictor, or of the local head, in the state of an interface; empty if it has none."""
    found: Weights = (
        state.get("predictor") or (learned(state["inner"]) if "inner" in state else state.get("head")) or {}
    )
    return found


def fits(module: nn.Module, weights: Weights) -> bool:
    """Whether these are the weights of such a module: the same names and shapes."""
    return {n: v.shape for n, v in module.state_dict().items()} == {n: v.shape for n, v in weights.items()}


def layers_of(chain: Chain) -> tuple[str, ...]:
    """The names of its layers, in order."""
    return tuple(chain._modules)


def chains_without_content(config: Config) -> list[Chain]:
    """The parts of a model, of which only names and shapes are known."""
    with torch.device("meta"):
        return build_chains(config)


def _teach(interface: Interface, state: Mapping[str, Any]) -> None:
    """Load what learns there, as far as it fits."""
    if isinstance(interface, LocalObjective):
        _load(interface.head, state.get("head", {}))
    if interface.learner is not None:
        _load(interface.learner, learned(state))


def _load(module: nn.Module, weights: Weights) -> None:
    if weights and fits(module, weights):
        module.load_state_dict(weights)
