"""Checkpoints: `checkpoints/step-00001000/stage-2.safetensors` (tensors) and `stage-2.json` (all else). No pickle.

A stage's JSON is written last and atomically; a checkpoint is complete when the JSON of every stage is there.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dni.errors import CheckpointError

FORMAT = 1


def save(run_dir: Path, stage: int, stages: int, step: int, state: dict[str, Any]) -> None:
    """Write one stage's state (nested dicts and lists of tensors and plain values)."""
    folder = folder_of(run_dir, step)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "", tensors)
    weights = folder / f"stage-{stage}.safetensors"
    save_file(tensors, weights.with_suffix(".tmp"))
    os.replace(weights.with_suffix(".tmp"), weights)
    plain = {"format": FORMAT, "step": step, "stage": stage, "stages": stages, "state": tree}
    temporary = folder / f"stage-{stage}.json.tmp"
    temporary.write_text(json.dumps(plain))
    os.replace(temporary, folder / f"stage-{stage}.json")


def load(run_dir: Path, step: int, stage: int) -> dict[str, Any]:
    """The inverse of `save`. Raises CheckpointError when files are missing or damaged."""
    path = folder_of(run_dir, step) / f"stage-{stage}.json"
    try:
        plain = json.loads(path.read_text())
        read = load_file(path.with_suffix(".safetensors"))  # wherever they lay in the file: on some processors
        tensors = {name: tensor.clone() for name, tensor in read.items()}  # sums depend on how memory is aligned
        if plain["format"] != FORMAT:
            raise CheckpointError(f"stage {stage}, step {step}: {path} has format {plain['format']}, not {FORMAT}")
        state: dict[str, Any] = _unflatten(plain["state"], tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"stage {stage}, step {step}: {path} cannot be read: {error}") from error
    return state


def complete_steps(run_dir: Path) -> list[int]:
    """Steps of the complete checkpoints in a run folder, ascending."""
    found = []
    for folder in sorted((run_dir / "checkpoints").glob("step-*")):
        number = folder.name.removeprefix("step-")
        parts = [part for part in folder.glob("stage-*.json") if part.with_suffix(".safetensors").is_file()]
        if number.isdecimal() and parts and len(parts) == _stages(parts[0]):
            found.append(int(number))
    return found


def prune(run_dir: Path, keep: int, spare: int | None = None) -> None:
    """Remove all complete checkpoints but the newest `keep`, and the one of the step `spare`."""
    for step in complete_steps(run_dir)[:-keep]:
        if step == spare:
            continue
        shutil.rmtree(folder_of(run_dir, step), ignore_errors=True)


def set_aside(run_dir: Path, after: int) -> None:
    """Rename the checkpoints of steps above `after` to `diverged-...`: nothing goes on from them any more."""
    for step in complete_steps(run_dir):
        if step > after:
            folder = folder_of(run_dir, step)
            aside = folder.with_name(folder.name.replace("step-", "diverged-"))
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def copy(source: Path, run_dir: Path, step: int) -> None:
    """Copy a complete checkpoint from one run folder to another, unless it is there."""
    target = folder_of(run_dir, step)
    if not target.exists():
        partly = target.with_name(f"{target.name}.partly")  # not offered before all of it is there
        shutil.copytree(folder_of(source, step), partly)
        partly.rename(target)


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def _stages(part: Path) -> int | None:
    try:
        return int(json.loads(part.read_text())["stages"])
    except (ValueError, KeyError, TypeError):
        return None  # damaged: never offered


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
