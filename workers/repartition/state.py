"""The state of one part of the model, from a checkpoint of the same parts or of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dni.stages.base import Stage
from workers.build.model import build_chains
from workers.build.warm_start import layers_of
from workers.config.settings import Config
from workers.repartition.matches import Matches, layers_by_name, match
from workers.repartition.saved import SavedPart, read_parts, saved_layers
from workers.repartition.stage import stage_state
from workers.storage import checkpoint

Content = dict[str, Any]


def load_part(
    config: Config, folder: Path, step: int, index: int, stage: Stage, fresh: Callable[[], Content]
) -> Content:
    """What the worker of part `index` loads from the checkpoint of a step.

    `fresh`: the state of the worker as it has been built, for what the checkpoint does not have. Raises
    CheckpointError.
    """
    own, there = layers_of(stage.module), saved_layers(folder, step)
    if there is None or (len(there) == config.parts and there[index] == own):
        return checkpoint.load(folder, step, index, config.parts)
    saved = read_parts(folder, step)
    with checkpoint.fitting(folder, step, index):
        return _moved(config, step, index, stage, saved, fresh())


def _moved(config: Config, step: int, index: int, stage: Stage, saved: list[SavedPart], fresh: Content) -> Content:
    layers = layers_by_name(build_chains(config))
    found = match(saved, layers_of(stage.module), layers)
    return {
        **fresh,
        "stage": stage_state(config, step, index, stage, found, layers),
        "depth": found.cut.state["depth"] if found.cut else fresh["depth"],
        "time": found.carrying.state["time"] if found.carrying else fresh["time"],
        "bootstrap": found.same.state["bootstrap"] if found.same else fresh["bootstrap"],
        "early": found.cut.state["early"] if found.cut else [],
        "losses": _losses(found, layers_of(stage.module)),
        "upstream": _upstream(saved[0], found, fresh["upstream"]),
        "journal": _journal(found, fresh["journal"]),
    }


def _losses(found: Matches, own: tuple[str, ...]) -> list[Any]:
    """Reports of losses on their way to the data: those of the parts that ended in this one, oldest first."""
    ended = [part for part in found.sharing if part.layers[-1] in own]
    waiting = [loss for part in ended for loss in part.state["losses"]]
    dropped = [loss for part in ended if part is not found.cut for target in part.state["early"] for loss in target[2]]
    return sorted([*waiting, *dropped], key=lambda loss: loss[0])


def _upstream(first: SavedPart, found: Matches, fresh: Content) -> Content:
    """Where the data is, wherever it is read; a model of inputs goes on where there was the same cut before it."""
    if "feed" not in fresh:
        return first.state["upstream"] if fresh else {}
    if found.entry is not None:
        return dict(found.entry.state["upstream"])
    return {**fresh, "feed": first.state["upstream"]}


def _journal(found: Matches, fresh: Content) -> Content | None:
    """Times and counts of the part that held the last layer; its losses only where it ended there, too."""
    journal = found.last.state.get("journal")
    if journal is None or found.cut is not None:
        return journal
    lossless: Content = {"nats": 0.0, "labels": 0, "train_loss": None, "own": {}}
    return {"tally": {**journal["tally"], **lossless}, "watch": fresh["watch"], "probed": {}}
