"""The state of one part's module, optimizer and carried values, from those of the saved parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dni.recurrent import Recurrent
from dni.rng import OwnRandomness
from dni.stages.base import Stage
from dni.stages.gradient_accumulator import GradientAccumulator
from workers.build.warm_start import layers_of
from workers.config.settings import Config
from workers.repartition.matches import Layers, Matches, carrying_state
from workers.repartition.optimizer import optimizer_state
from workers.repartition.saved import SavedPart

Content = dict[str, Any]

#: What stages of every kind save, and the traces of `OnlineStage`, by the names of weights.
COMMON = ("layers", "module", "optimizer", "state", "random", "gathered", "schedule", "gradient_norm", "traces")

#: What a stage that waits for gradients or corrections saves: its windows, and the weights they were run with.
WINDOWS, VERSIONS = "held", "versions"


def stage_state(config: Config, step: int, index: int, stage: Stage, found: Matches, layers: Layers) -> Content:
    """What `stage.load_state_dict` takes, for part `index` after `step` training steps.

    Whatever a stage of its own kind saves beside what all stages do stays as it is in a new one.
    """
    if found.same is not None:
        return dict(found.same.state["stage"])
    own, fresh = layers_of(stage.module), stage.state_dict()
    weights = _together([part.state["stage"]["module"] for part in found.sharing])
    return {
        **fresh,
        "module": {name: weights[name] for name in fresh["module"]},
        "optimizer": optimizer_state(config, found.sharing, layers, stage.module, stage.optimizer),
        "state": carried_state(found.sharing, own, layers),
        "random": _random(config, step, index, stage, found),
        "gathered": gathered(found.sharing, [name for name, _ in stage.module.named_parameters()]),
        "gradient_norm": None,
        **({"traces": _traces(found.sharing, own)} if "traces" in fresh else {}),
    }


def carried_state(saved: Sequence[SavedPart], own: Sequence[str], layers: Layers) -> list[Tensor] | None:
    """Of the layers `own`, in order; None: no window has been run yet."""
    found: dict[str, list[Tensor]] = {}
    for part in saved:
        state = part.state["stage"]["state"]
        if state is None:
            return None
        start = 0
        for name in carrying_state(part.layers, layers):
            layer = layers[name]
            assert isinstance(layer, Recurrent)
            end = start + len(layer.initial_state(1))
            found[name], start = state[start:end], end
    return [tensor for name in carrying_state(own, layers) for tensor in found[name]]


def gathered(saved: Sequence[SavedPart], names: Sequence[str]) -> Content:
    """The gradients that wait for their optimizer step, if all parts have gathered those of as many windows."""
    parts = [part.state["stage"]["gathered"] for part in saved]
    if not even(parts):
        return vars(GradientAccumulator())
    sums = _together([part["sums"] for part in parts])
    return {**parts[0], "sums": {name: sums[name] for name in names if name in sums}}


def even(parts: Sequence[Content]) -> bool:
    """Whether parts have gathered gradients alike, so that these make one optimizer step together."""
    return len({(part["windows"], part["divisor"]) for part in parts}) == 1


def _traces(saved: Sequence[SavedPart], own: Sequence[str]) -> Content:
    """Those of the weights of the layers `own`."""
    traces = _together([part.state["stage"].get("traces", {}) for part in saved])
    return {name: trace for name, trace in traces.items() if name.split(".")[0] in own}


def _random(config: Config, step: int, index: int, stage: Stage, found: Matches) -> dict[str, Tensor]:
    """That of the same layers; other layers draw from a state of their own, which no part has drawn from before."""
    if stage.randomness is None:
        return {}
    if found.drawing is not None:
        return dict(found.drawing.state["stage"]["random"])
    seed = int(np.random.SeedSequence([config.seed, index, step]).generate_state(1)[0])
    return OwnRandomness(seed, stage.device).states


def _together(parts: Sequence[Content]) -> Content:
    return {name: value for part in parts for name, value in part.items()}
