"""The parts of the model that a checkpoint was saved from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni.errors import CheckpointError
from dni.types import StagePlace
from workers.storage import checkpoint
from workers.storage.sealed import read_sealed


@dataclass(frozen=True)
class SavedPart:
    """One of them, in their order. `layers`: the names of its layers, in order; `state`: all that was saved of it."""

    layers: tuple[str, ...]
    state: Mapping[str, Any]
    place: StagePlace


def saved_layers(folder: Path, step: int) -> list[tuple[str, ...]] | None:
    """The names of the layers of each part; None: it is of an earlier version, which did not save them.

    Their tensors are not read. Raises CheckpointError.
    """
    found = []
    for part in range(checkpoint.stages_of(folder, step)):
        path = checkpoint.folder_of(folder, step) / f"stage-{part}.json"
        try:
            layers = read_sealed(path)["state"]["stage"].get("layers")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if layers is None:
            return None
        found.append(tuple(map(str, layers)))
    return found


def read_parts(folder: Path, step: int) -> list[SavedPart]:
    """All of them, with their tensors. Raises CheckpointError for what cannot be read or is of an earlier version."""
    layers = saved_layers(folder, step)
    if layers is None:
        raise CheckpointError(f"step {step}: the checkpoint in {folder} does not say where its model was cut")
    return [
        SavedPart(own, checkpoint.load(folder, step, part, len(layers)), StagePlace(part, len(layers)))
        for part, own in enumerate(layers)
    ]
