"""The two files of one stage in a checkpoint: `stage-2.safetensors` (tensors) and `stage-2.json` (all else).

The JSON is written last. It holds digests of itself and of the tensors, the step, the stage and the number of stages;
the reader checks all of them.
"""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dni.errors import CheckpointError, DamagedCheckpoint
from workers.storage.sealed import Unsealed, digest_of, put_in_place, read_sealed, write_sealed

FORMAT = 2

#: The previous format, without digests: it is read, but damage is not detected.
UNCHECKED = 1

Place = tuple[int, int]
"""Step and stage."""

Content = dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """A copy of a state: its tensors on the CPU, by name, and all else as a tree that JSON can hold."""

    tree: Any
    tensors: dict[str, Tensor]


def snapshot(state: Any) -> Snapshot:
    """Copy a state of nested dicts and lists of tensors and plain values; the original may change afterwards."""
    tensors: dict[str, Tensor] = {}
    return Snapshot(_flatten(state, "", tensors), tensors)


def write_stage(path: Path, place: Place, stages: int, state: Snapshot) -> None:
    """Write `path` (the JSON) and the tensors beside it.

    The content of both files is on the disk when this returns. Raises OSError.
    """
    try:
        digest = _write_tensors(path.with_suffix(".safetensors"), state.tensors)
        step, stage = place
        named = {"format": FORMAT, "step": step, "stage": stage, "stages": stages}
        plain = {**named, "tensors": digest, "state": state.tree}
        write_sealed(path, plain)
    except OSError:
        for left in (path.with_suffix(".tmp"), path.with_suffix(".json.tmp")):
            with suppress(OSError):
                left.unlink()  # frees its space on a full disk
        raise


def read_stage(path: Path, place: Place) -> Content:
    """Read the JSON and check both digests; `state` has no tensors yet.

    Raises DamagedCheckpoint if a file has changed since it was written, CheckpointError if it cannot be read.
    """
    weights = path.with_suffix(".safetensors")
    try:
        plain = _plain(path)
        _check_place(plain, place)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(path, place, error) from error
    try:
        if plain["format"] != UNCHECKED and digest_of(weights) != plain["tensors"]:
            raise ValueError("its content does not match its digest")
    except (OSError, ValueError) as error:
        raise _unreadable(weights, place, error) from error
    return plain


def with_tensors(path: Path, place: Place, plain: Content) -> Any:
    """Return the state in `plain` with its tensors. Raises as `read_stage`."""
    weights = path.with_suffix(".safetensors")
    try:
        read = load_file(weights)
        # cloned to the same alignment in any file: on some processors sums depend on it
        tensors = {name: tensor.clone() for name, tensor in read.items()}
        return _unflatten(plain["state"], tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _unreadable(weights, place, error) from error


def stages_in(path: Path) -> int | None:
    """Return the number of stages from a JSON; None if it is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, CheckpointError):
        return int(_plain(path)["stages"])
    return None


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    temporary = path.with_suffix(".tmp")
    try:
        save_file(tensors, temporary)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    digest = digest_of(temporary)
    put_in_place(temporary, path)
    return digest


def _plain(path: Path) -> Content:
    """Read content of either format. Raises ValueError if it is damaged, CheckpointError if a later version wrote
    it."""
    try:
        plain = read_sealed(path)
    except Unsealed:
        plain = json.loads(path.read_bytes())
        if plain["format"] != UNCHECKED:
            raise
        return dict(plain)
    if plain["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {plain['format']}, but this version reads {FORMAT}: use a later version"
        )
    return plain


def _check_place(plain: Content, place: Place) -> None:
    for name, wanted in zip(("step", "stage"), place, strict=True):
        if plain[name] != wanted:
            raise ValueError(f"it belongs to {name} {plain[name]}, not to {name} {wanted}")
    if not isinstance(plain["stages"], int) or not place[1] < plain["stages"]:
        raise ValueError(f"it belongs to stage {place[1]} of {plain['stages']}")


def _unreadable(path: Path, place: Place, error: Exception) -> CheckpointError:
    """Return DamagedCheckpoint; CheckpointError if the operating system refused to open the file."""
    name = f"stage {place[1]}, step {place[0]}: {path}"
    if isinstance(error, OSError) and error.errno != errno.EIO:
        return CheckpointError(f"{name} cannot be read: {error.strerror or error}")
    return DamagedCheckpoint(f"{name} is damaged: {error}")


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a JSON tree with every tensor replaced by its key in `tensors`, and integer keys marked."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"$tensor": path}
    if isinstance(value, dict):
        keyed = {f"#{key}" if isinstance(key, int) else key: item for key, item in value.items()}
        return {key: _flatten(item, f"{path}/{key}", tensors) for key, item in keyed.items()}
    if isinstance(value, list | tuple):
        return [_flatten(item, f"{path}/{n}", tensors) for n, item in enumerate(value)]
    return value


def _unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unflatten(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    return {int(k[1:]) if k.startswith("#") else k: _unflatten(item, tensors) for k, item in tree.items()}
