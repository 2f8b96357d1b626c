"""The two files of one stage in a checkpoint: `stage-2.safetensors` (tensors) and `stage-2.json` (all else).

The JSON is written last. It holds a digest of itself and one of the tensors, the step, the stage and the number of
stages; all are checked when it is read.
"""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dni.errors import CheckpointError, DamagedCheckpoint
from workers.storage.sealed import Unsealed, digest_of, put_in_place, read_sealed, write_sealed

FORMAT = 2

#: The format before, which has no digests: it is read, but damage in it is not noticed.
UNCHECKED = 1

Place = tuple[int, int]
"""Step and stage."""

Content = dict[str, Any]


def write_stage(path: Path, place: Place, stages: int, state: Any) -> None:
    """Write `path` (the JSON) and the tensors beside it: nested dicts and lists of tensors and plain values.

    Raises OSError. When this returns, the content of both files is on the disk.
    """
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "", tensors)
    try:
        digest = _write_tensors(path.with_suffix(".safetensors"), tensors)
        step, stage = place
        plain = {"format": FORMAT, "step": step, "stage": stage, "stages": stages, "tensors": digest, "state": tree}
        write_sealed(path, plain)
    except OSError:
        for left in (path.with_suffix(".tmp"), path.with_suffix(".json.tmp")):
            with suppress(OSError):
                left.unlink()  # on a full disk its space is needed
        raise


def read_stage(path: Path, place: Place) -> Content:
    """The JSON, once it and the digest of the tensors are found right; `state` is without tensors yet.

    Raises DamagedCheckpoint where a file is not as it was written, CheckpointError where it cannot be read.
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
    """The state that was written: that of `plain`, with its tensors. Raises as `read_stage`."""
    weights = path.with_suffix(".safetensors")
    try:
        read = load_file(weights)  # wherever they lay in the file: on some processors
        tensors = {name: tensor.clone() for name, tensor in read.items()}  # sums depend on how memory is aligned
        return _unflatten(plain["state"], tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _unreadable(weights, place, error) from error


def stages_in(path: Path) -> int | None:
    """Of how many stages the run was, as a JSON says; None if it is damaged."""
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
    """Content of either format. Raises ValueError if it is damaged, CheckpointError for one of a later version."""
    try:
        plain = read_sealed(path)
    except Unsealed:
        plain = json.loads(path.read_bytes())
        if plain["format"] != UNCHECKED:
            raise
        return dict(plain)
    if plain["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {plain['format']}, and this version reads {FORMAT}: use a later one")
    return plain


def _check_place(plain: Content, place: Place) -> None:
    for name, wanted in zip(("step", "stage"), place, strict=True):
        if plain[name] != wanted:
            raise ValueError(f"it is of {name} {plain[name]}, and lies among those of {name} {wanted}")
    if not isinstance(plain["stages"], int) or not place[1] < plain["stages"]:
        raise ValueError(f"it is of stage {place[1]} of {plain['stages']}")


def _unreadable(path: Path, place: Place, error: Exception) -> CheckpointError:
    """Damage, unless the system only refused to open it."""
    said = f"stage {place[1]}, step {place[0]}: {path}"
    if isinstance(error, OSError) and error.errno != errno.EIO:
        return CheckpointError(f"{said} cannot be read: {error.strerror or error}")
    return DamagedCheckpoint(f"{said} is damaged: {error}")


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A JSON tree in which every tensor is replaced by its key in `tensors`, and integer keys are marked."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
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
