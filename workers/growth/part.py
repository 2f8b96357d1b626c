"""The checkpoint of one part of a grown model, from that of the same part before it had more layers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dni.data.base import Data
from dni.growth import Insertion, make_identity
from dni.recurrent import Chain, Recurrent
from dni.stages.base import Stage
from workers.build.interfaces import bootstrap, depth_interface, time_interface
from workers.build.model import build_chains
from workers.build.stage import build_stage
from workers.config.settings import Config
from workers.repartition.matches import layers_by_name
from workers.repartition.optimizer import optimizer_state
from workers.repartition.saved import SavedPart
from workers.repartition.stage import COMMON, VERSIONS, WINDOWS
from workers.storage import checkpoint

log = logging.getLogger(__name__)

Content = dict[str, Any]


def renamed(part: SavedPart, names: Mapping[str, str]) -> SavedPart:
    """Return a part with its layers, and all that it keeps by their names, called as in the grown model."""
    state = dict(part.state)
    state |= {key: _renamed(state[key], names) for key in ("stage", "piggyback") if key in state}
    return SavedPart(tuple(names[layer] for layer in part.layers), state, part.place)


def grown_part(config: Config, part: SavedPart, found: Insertion, data: Data) -> Content:
    """Return the checkpoint of a part with its new layers.

    Args:
        config: settings of the grown model, on this machine's CPU
        part: the part before, under the names that its layers have now
        found: where the new layers are
        data: the run's data; a model of gradients in time may look at it

    What old layers have stays, with the optimizer's moments. New layers begin as the identity, with no moments and
    their initial state. What learns at the cut in time begins anew if a new layer carries state.
    """
    index = part.place.index
    stage = build_stage(config, index)
    new = [name for name in stage.module._modules if name in found.new]
    if not new:
        return {**part.state, "stage": {**part.state["stage"], "layers": list(part.layers)}}
    for name in new:
        make_identity(stage.module.get_submodule(name), name)
    state = {**part.state, "stage": _stage_state(config, stage, part, new)}
    if not config.pipelined and any(isinstance(stage.module._modules[name], Recurrent) for name in new):
        state |= _anew_in_time(config, stage, part, data)
    return state


def _stage_state(config: Config, stage: Stage, part: SavedPart, new: Sequence[str]) -> Content:
    earlier, fresh = part.state["stage"], stage.state_dict()
    layers = layers_by_name(build_chains(config))
    kept = {key: value for key, value in earlier.items() if key in COMMON}
    weights = {name: value for name, value in fresh["module"].items() if name.split(".")[0] in new}
    state: Content = {
        **fresh,
        **kept,
        "layers": fresh["layers"],
        "module": {name: weights.get(name, earlier["module"].get(name)) for name in fresh["module"]},
        "optimizer": optimizer_state(config, [part], layers, stage.module, stage.optimizer),
        "state": _with_new(earlier["state"], stage.module, new),
        "random": earlier["random"] or fresh["random"],
    }
    left = [key for key in earlier if key not in (*COMMON, WINDOWS, VERSIONS) and earlier[key]]
    if left:
        log.warning("left behind: what the stage of %s keeps besides (%s)", ", ".join(fresh["layers"]), ", ".join(left))
    if WINDOWS in earlier:
        state[WINDOWS] = {step: _window(each, stage.module, new, state) for step, each in earlier[WINDOWS].items()}
        trained = {name for name, _ in stage.module.named_parameters()}
        added = {name: value for name, value in weights.items() if name in trained}
        state[VERSIONS] = [{**version, **added} if version else version for version in earlier[VERSIONS]]
    return state


def _window(window: Content, chain: Chain, new: Collection[str], state: Content) -> Content:
    """A window that waits for its gradient, as if the new layers had been there."""
    entering = _with_new(window["entering"], chain, new)
    return {**window, "entering": entering, "random": window["random"] or state["random"]}


def _with_new(state: Sequence[Tensor] | None, chain: Chain, new: Collection[str]) -> list[Tensor] | None:
    """Insert the initial state of new layers. None: no window has been run, or no layer carried a state before."""
    if not state:
        return None
    batch, left, found = state[0].shape[-2], list(state), list[Tensor]()
    for name, layer in chain.named_children():
        if isinstance(layer, Recurrent):
            own = layer.initial_state(batch)
            found += own if name in new else left[: len(own)]
            left = left if name in new else left[len(own) :]
    return found


def _anew_in_time(config: Config, stage: Stage, part: SavedPart, data: Data) -> Content:
    depth = depth_interface(config, part.place.index, stage)
    time = time_interface(config, part.place.index, stage, data.train)
    if part.state["time"]:
        log.warning(
            "beginning anew, as its state is larger: what learns in time in %s", ", ".join(stage.module._modules)
        )
    made = bootstrap(config, part.place.index, stage, depth, time)
    return {"time": time.state_dict(), "bootstrap": made.state_dict()}


def _renamed(tree: Any, names: Mapping[str, str]) -> Any:
    """Rename the layer at the front of every key of nested dicts, as in `lstm1.rnn.weight`."""
    if isinstance(tree, list | tuple):
        return [_renamed(each, names) for each in tree]
    if not isinstance(tree, dict):
        return tree
    return {_renamed_key(key, names): _renamed(value, names) for key, value in tree.items()}


def _renamed_key(key: Any, names: Mapping[str, str]) -> Any:
    layer, dot, rest = str(key).partition(".")
    return f"{names[layer]}.{rest}" if dot and layer in names else key


def refuse_unfit(config: Config, folder: Path, step: int, index: int, state: Content) -> None:
    """Raise CheckpointError if a worker could not go on from this state."""
    stage = build_stage(config, index)
    with checkpoint.fitting(folder, step, index):
        stage.load_state_dict(state["stage"])
        if not config.pipelined:
            depth_interface(config, index, stage).load_state_dict(state["depth"])
