"""Checkpoints: `checkpoints/step-00001000/stage-2.safetensors` (tensors) and `stage-2.json` (all else). No pickle.

A stage's JSON is written last and atomically. A checkpoint is complete if both files of every stage exist, and whole if
their digests match (`workers.storage.stage_files`).
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
from workers.storage.sealed import put_in_place, sync
from workers.storage.stage_files import (
    UNCHECKED,
    Snapshot,
    read_stage,
    snapshot,
    stages_in,
    with_tensors,
    write_stage,
)
from workers.system.errors import as_refusal

log = logging.getLogger(__name__)


def save(run_dir: Path, stage: int, stages: int, step: int, state: dict[str, Any]) -> None:
    """Write one stage's state (nested dicts and lists of tensors and plain values). Raises as `write`."""
    write(run_dir, stage, stages, step, snapshot(state))


def write(run_dir: Path, stage: int, stages: int, step: int, state: Snapshot) -> None:
    """Write one stage's snapshot. The files and their names are on the disk when this returns. Raises OSError."""
    folder = folder_of(run_dir, step)
    folder.mkdir(parents=True, exist_ok=True)
    write_stage(_json(folder, stage), (step, stage), stages, state)
    sync(folder.parent)


def load(run_dir: Path, step: int, stage: int, stages: int | None = None) -> dict[str, Any]:
    """Read one stage's state, the inverse of `save`. `stages` is the expected number of stages; None: any.

    Raises DamagedCheckpoint if a file has changed since it was written, CheckpointError if it belongs to another run or
    cannot be read.
    """
    path, place = _json(folder_of(run_dir, step), stage), (step, stage)
    plain = read_stage(path, place)
    if stages not in (None, plain["stages"]):
        raise CheckpointError(
            f"stage {stage}, step {step}: {path} belongs to a run of {plain['stages']} stages, not {stages}"
        )
    state: dict[str, Any] = with_tensors(path, place, plain)
    return state


def verify(run_dir: Path, step: int) -> bool:
    """Read and check all files of a checkpoint. Returns False if some are missing; raises as `load`."""
    folder = folder_of(run_dir, step)
    stages = _stages(folder)
    if not _has_all(folder, stages):
        if stages is None and _parts(folder):  # all are damaged: raise the first one's error
            read_stage(_json(folder, _parts(folder)[0]), (step, _parts(folder)[0]))
        return False
    found = [read_stage(_json(folder, stage), (step, stage)) for stage in range(stages or 0)]
    other = next((plain for plain in found if plain["stages"] != stages), None)
    if other is not None:
        raise DamagedCheckpoint(
            f"stage {other['stage']}, step {step}: {_json(folder, other['stage'])} belongs to a run of "
            f"{other['stages']} stages, the files before it to one of {stages}"
        )
    if any(plain["format"] == UNCHECKED for plain in found):
        log.warning("%s has no digests (format %d): damage cannot be detected", folder, UNCHECKED)
    return True


def newest_whole(run_dir: Path) -> int | None:
    """Return the step of the newest complete and undamaged checkpoint; None if no checkpoint is complete.

    Warns of newer checkpoints that are damaged. Raises DamagedCheckpoint if all complete ones are damaged,
    CheckpointError if one cannot be read for another reason.
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


def newest_part(run_dir: Path, stage: int, after: int) -> int | None:
    """Return the step of the newest undamaged checkpoint of one stage after step `after`; None without one.

    It may lack other stages. Warns of newer ones that cannot be read.
    """
    for step in reversed([step for step in _steps(run_dir) if step > after]):
        path = _json(folder_of(run_dir, step), stage)
        try:
            if path.is_file() and read_stage(path, (step, stage)):
                return step
        except CheckpointError as error:
            log.warning("%s; going back to an older one", error)
    return None


def complete_steps(run_dir: Path) -> list[int]:
    """Return the steps of the complete checkpoints in a run folder, ascending, without reading tensors."""
    folders = [(step, folder_of(run_dir, step)) for step in _steps(run_dir)]
    return [step for step, folder in folders if _has_all(folder, _stages(folder))]


def stages_of(run_dir: Path, step: int) -> int:
    """Return the number of stages of a checkpoint. Raises CheckpointError if none of its JSON files can be read."""
    folder = folder_of(run_dir, step)
    stages = _stages(folder)
    if stages is None:
        raise CheckpointError(f"step {step}: no stage-K.json in {folder} can be read")
    return stages


def prune(run_dir: Path, keep: int, spare: int | None = None, *, incomplete: bool = False) -> None:
    """Remove all complete checkpoints except the newest `keep` and that of step `spare`.

    `incomplete`: also those older than the newest complete one that lack a stage.
    """
    complete = complete_steps(run_dir)
    kept, newest = {spare, *complete[-keep:]}, max(complete, default=0)
    for step in _steps(run_dir) if incomplete else complete:
        if step not in kept and step < newest:
            shutil.rmtree(folder_of(run_dir, step), ignore_errors=True)


def set_aside(run_dir: Path, after: int) -> None:
    """Rename the checkpoints after step `after` to `diverged-...`, so that no run resumes from them."""
    for step in complete_steps(run_dir):
        if step > after:
            folder = folder_of(run_dir, step)
            aside = folder.with_name(folder.name.replace("step-", "diverged-"))
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def drop_after(run_dir: Path, step: int) -> None:
    """Remove all checkpoints after a step, complete or not, for a run that resumes there. Raises OSError.

    Unreadable ones are renamed to `damaged-step-N` instead.
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
    """Copy a complete checkpoint to another run folder, unless it exists there. Raises as `load`, and OSError."""
    target = folder_of(run_dir, step)
    if not target.exists():
        verify(source, step)
        partly = target.with_name(f"{target.name}.partly")  # never seen under its final name before it is complete
        shutil.copytree(folder_of(source, step), partly, dirs_exist_ok=True)
        for file in partly.iterdir():
            sync(file)
        put_in_place(partly, target)


@contextmanager
def fitting(folder: Path, step: int, stage: int) -> Iterator[None]:
    """Raise errors of loading a state inside as CheckpointError: the checkpoint does not fit the model."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if as_refusal(error) is not None:
            raise
        raise CheckpointError(
            f"stage {stage}, step {step}: the checkpoint in {folder} does not fit this model: {error}"
        ) from error


def folder_of(run_dir: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def _json(folder: Path, stage: int) -> Path:
    return folder / f"stage-{stage}.json"


def _steps(run_dir: Path) -> list[int]:
    """Return the steps of all checkpoint folders, also of incomplete ones, ascending."""
    names = [folder.name.removeprefix("step-") for folder in (run_dir / "checkpoints").glob("step-*")]
    steps = [int(name) for name in names if name.isdecimal()]
    return sorted(step for step in steps if folder_of(run_dir, step).is_dir())


def _parts(folder: Path) -> list[int]:
    """Return the stages whose JSON exists, ascending."""
    names = [path.stem.removeprefix("stage-") for path in folder.glob("stage-*.json")]
    return sorted(int(name) for name in names if name.isdecimal())


def _stages(folder: Path) -> int | None:
    """Return the number of stages from the first readable JSON, or None."""
    return next((found for part in _parts(folder) if (found := stages_in(_json(folder, part))) is not None), None)


def _has_all(folder: Path, stages: int | None) -> bool:
    files = [_json(folder, stage).with_suffix(end) for stage in range(stages or 0) for end in (".json", ".safetensors")]
    return bool(files) and all(file.is_file() for file in files)


def continue_with(run_dir: Path) -> str:
    """Return a sentence that names the last checkpoint of a broken run and the command that resumes it."""
    steps = complete_steps(run_dir)
    if not steps:
        return "no complete checkpoint had been written (checkpoint.every sets how often)"
    last = folder_of(run_dir, steps[-1])
    return f"last complete checkpoint: {last}; resume with: {resume_command(run_dir)}"
