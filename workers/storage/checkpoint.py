"""Checkpoints: `checkpoints/step-00001000/stage-2.safetensors` (tensors) and `stage-2.json` (all else). No pickle.

A stage's JSON is written last and in one piece; a checkpoint is complete when both files of every stage are there, and
whole if they are as they were written (`workers.storage.stage_files`).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dni.errors import CheckpointError, DamagedCheckpoint
from workers.config.quoting import resume_command
from workers.storage import checkpoint
from workers.storage.sealed import put_in_place, sync
from workers.storage.stage_files import UNCHECKED, read_stage, stages_in, with_tensors, write_stage
from workers.system.errors import as_refusal

log = logging.getLogger(__name__)


def save(run_dir: Path, stage: int, stages: int, step: int, state: dict[str, Any]) -> None:
    """Write one stage's state (nested dicts and lists of tensors and plain values). Raises OSError.

    When this returns, the files and their names are on the disk.
    """
    folder = folder_of(run_dir, step)
    folder.mkdir(parents=True, exist_ok=True)
    write_stage(_json(folder, stage), (step, stage), stages, state)
    sync(folder.parent)


def load(run_dir: Path, step: int, stage: int, stages: int | None = None) -> dict[str, Any]:
    """The inverse of `save`; with `stages`, of a run of so many.

    Raises DamagedCheckpoint where a file is not as it was written, CheckpointError where it is of another run or
    cannot be read.
    """
    path, place = _json(folder_of(run_dir, step), stage), (step, stage)
    plain = read_stage(path, place)
    if stages not in (None, plain["stages"]):
        raise CheckpointError(
            f"stage {stage}, step {step}: {path} is of a run of {plain['stages']} stages, not {stages}"
        )
    state: dict[str, Any] = with_tensors(path, place, plain)
    return state


def verify(run_dir: Path, step: int) -> bool:
    """Read all files of a checkpoint through. Returns False where some are missing; raises as `load`."""
    folder = folder_of(run_dir, step)
    stages = _stages(folder)
    if not _has_all(folder, stages):
        if stages is None and _parts(folder):  # all are damaged: the first one says how
            read_stage(_json(folder, _parts(folder)[0]), (step, _parts(folder)[0]))
        return False
    found = [read_stage(_json(folder, stage), (step, stage)) for stage in range(stages or 0)]
    other = next((plain for plain in found if plain["stages"] != stages), None)
    if other is not None:
        raise DamagedCheckpoint(
            f"stage {other['stage']}, step {step}: {_json(folder, other['stage'])} is of a run of {other['stages']} "
            f"stages, those before it of {stages}"
        )
    if any(plain["format"] == UNCHECKED for plain in found):
        log.warning("%s is from before there were digests (format %d): damage would not be noticed", folder, UNCHECKED)
    return True


def newest_whole(run_dir: Path) -> int | None:
    """The step of the newest complete checkpoint that is as it was written; None if none is complete.

    A newer one that is damaged is named in a warning. Raises DamagedCheckpoint if all complete ones are damaged,
    CheckpointError for one that cannot be read for another reason.
    """
    damaged: list[DamagedCheckpoint] = []
    for step in reversed(_steps(run_dir)):
        try:
            if verify(run_dir, step):
                for error in damaged:
                    log.warning("%s; going back to the checkpoint of step %d", error, step)
                return step
        except DamagedCheckpoint as error:
            damaged.append(error)
    if damaged:
        raise damaged[0]
    return None


def complete_steps(run_dir: Path) -> list[int]:
    """Steps of the complete checkpoints in a run folder, ascending. Their tensors are not read."""
    folders = [(step, folder_of(run_dir, step)) for step in _steps(run_dir)]
    return [step for step, folder in folders if _has_all(folder, _stages(folder))]


def stages_of(run_dir: Path, step: int) -> int:
    """Of how many stages a checkpoint is. Raises CheckpointError if no file of it says so."""
    folder = folder_of(run_dir, step)
    stages = _stages(folder)
    if stages is None:
        raise CheckpointError(f"step {step}: no stage-K.json in {folder} can be read")
    return stages


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


def drop_after(run_dir: Path, step: int) -> None:
    """Remove what was saved after a step, whole or in part, for a run that goes on from there. Raises OSError.

    What cannot be read is set aside as `damaged-step-N`.
    """
    for later in [found for found in _steps(run_dir) if found > step]:
        folder = folder_of(run_dir, later)
        try:
            verify(run_dir, later)
        except CheckpointError:
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        else:
            shutil.rmtree(folder)


def copy(source: Path, run_dir: Path, step: int) -> None:
    """Copy a complete checkpoint from one run folder to another, unless it is there. Raises as `load`, and OSError."""
    target = folder_of(run_dir, step)
    if not target.exists():
        verify(source, step)
        partly = target.with_name(f"{target.name}.partly")  # not offered before all of it is there
        shutil.copytree(folder_of(source, step), partly, dirs_exist_ok=True)
        for file in partly.iterdir():
            sync(file)
        put_in_place(partly, target)


@contextmanager
def fitting(folder: Path, step: int, stage: int) -> Iterator[None]:
    """What is loaded inside is of this model. Raises CheckpointError if it does not fit."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if as_refusal(error) is not None:
            raise
        raise CheckpointError(
            f"stage {stage}, step {step}: the checkpoint in {folder} does not fit this model: {error}"
        ) from error


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def _json(folder: Path, stage: int) -> Path:
    return folder / f"stage-{stage}.json"


def _steps(run_dir: Path) -> list[int]:
    """Steps of all checkpoints, also of incomplete ones, ascending."""
    names = [folder.name.removeprefix("step-") for folder in (run_dir / "checkpoints").glob("step-*")]
    steps = [int(name) for name in names if name.isdecimal()]
    return sorted(step for step in steps if folder_of(run_dir, step).is_dir())


def _parts(folder: Path) -> list[int]:
    """The stages whose JSON is there, ascending."""
    names = [path.stem.removeprefix("stage-") for path in folder.glob("stage-*.json")]
    return sorted(int(name) for name in names if name.isdecimal())


def _stages(folder: Path) -> int | None:
    """Of how many stages it is, as the first readable JSON says."""
    return next((found for part in _parts(folder) if (found := stages_in(_json(folder, part))) is not None), None)


def _has_all(folder: Path, stages: int | None) -> bool:
    files = [_json(folder, stage).with_suffix(end) for stage in range(stages or 0) for end in (".json", ".safetensors")]
    return bool(files) and all(file.is_file() for file in files)


def continue_with(run_dir: Path) -> str:
    """What is left of a broken run, and what to type to go on."""
    steps = checkpoint.complete_steps(run_dir)
    if not steps:
        return "no complete checkpoint had been written (checkpoint.every sets how often)"
    last = checkpoint.folder_of(run_dir, steps[-1])
    return f"last complete checkpoint: {last}; go on with: {resume_command(run_dir)}"
