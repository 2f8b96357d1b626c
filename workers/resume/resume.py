"""Go on with an earlier run: which checkpoint, whether it is the same run, and what its folder hands on."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from dni.errors import CheckpointError, ConfigError, ResumeError
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.resume.repartition import cut_as, settle_cuts
from workers.resume.schedule import settle_schedule
from workers.storage import checkpoint
from workers.storage.record import read_record
from workers.storage.versions import changed_versions
from workers.system.errors import about
from workers.tracking.early_stopping import best, waited
from workers.tracking.run import METRICS, read_metrics

log = logging.getLogger(__name__)

log = logging.getLogger(__name__)

#: Sections that may not change when a run goes on.
AGREED = ("seed", "stages", "model", "data", "loss", "depth", "time", "predictor", "optimizer")


_WEIGHTS_ALONE = "or take its weights alone into a new run: start_from={} instead of resume"


def settle_resume(config: Config, decay_steps: int | None = None) -> Config:
    """Name the checkpoint to go on from, and refuse a run that is not the same. Raises ResumeError.

    `decay_steps`: optimizer.schedule.decay_steps as it was given; in `config` it is filled in.
    """
    if config.resume is None:
        return config
    folder = Path(config.resume)
    before = replace(before_resume(folder), resume=None)
    step = _whole_checkpoint(folder, config.resume_step)
    config = _without_its_start(config, before)
    agreed = cut_as(config, settle_schedule(config, before, decay_steps, step))
    changed = differences(to_plain(agreed), to_plain(config))
    if changed:
        raise ResumeError(
            f"resume={folder} was another run: {', '.join(changed)}; leave these settings as they were, "
            f"{_WEIGHTS_ALONE.format(folder)}"
        )
    _refuse_finished(config, folder, step)
    settle_cuts(config, before, folder, step)
    return replace(config, resume=str(folder.absolute()), resume_step=step)


def _whole_checkpoint(folder: Path, asked: int | None) -> int:
    """The step of the checkpoint to go on from: the one that is asked for, or the newest. Raises ResumeError."""
    try:
        step = checkpoint.newest_whole(folder) if asked is None else asked
        if step is not None and checkpoint.verify(folder, step):
            return step
    except CheckpointError as error:
        others = [step for step in checkpoint.complete_steps(folder) if step != asked] if asked is not None else []
        way = f"try resume_step={others[-1]}" if others else "start the run anew, without resume"
        raise ResumeError(f"resume={folder}: {error}; {way}") from error
    if asked is None:
        raise ResumeError(f"resume={folder}: no checkpoint in it is complete; start the run anew, without resume")
    complete = checkpoint.complete_steps(folder) or "none"
    raise ResumeError(f"resume={folder}: no complete checkpoint of step {asked}; complete are: {complete}")


def _without_its_start(config: Config, before: Config) -> Config:
    """Where the run began is no concern of its continuation, which repeats its settings. Raises ResumeError if asked to
    begin elsewhere."""
    if config.start_from is None:
        return config
    if before.start_from is None or Path(before.start_from) != Path(config.start_from).expanduser().absolute():
        raise ResumeError(
            f"resume={config.resume} goes on with all of a run, start_from={config.start_from} takes the weights alone "
            "into a new one: leave one of the two out"
        )
    return replace(config, start_from=None, start_step=None)


def before_resume(folder: Path) -> Config:
    """The record of a run that is to go on. Raises ResumeError if there is none, or if it is damaged."""
    try:
        return read_record(folder)
    except ConfigError as error:
        raise ResumeError(f"resume={folder}: {error}") from error


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings of the agreed sections that differ, as `key was old, now new`.

    A digest that was not recorded says nothing: earlier versions had none of images.
    """
    old, new = _flat(before), _flat(now)
    keys = [key for key in old | new if key.split(".")[0] in AGREED and (key, old.get(key)) != ("data.sha256", None)]
    return [f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def warn_of_versions(config: Config) -> None:
    """Name the versions that are not those a run was computed with so far."""
    changed = changed_versions(Path(config.resume)) if config.resume is not None else []
    if changed:
        what = ", ".join(changed)
        log.warning("resume=%s goes on under other versions: %s; last digits may differ", config.resume, what)


def hand_on(config: Config, run_dir: Path) -> None:
    """A resumed run's folder begins with the records of the steps it does not repeat.

    Where patience may end the run, the best checkpoint so far comes along: it may remain the best.
    """
    if config.resume is None or config.resume_step is None:
        return
    folder = Path(config.resume)
    kept = earlier_records(folder, config.resume_step)  # wholly, for it may be the file written to
    part = run_dir / f".{METRICS}.part"
    with about(run_dir / METRICS):
        part.write_text("".join(json.dumps(record) + "\n" for record in kept))
        part.replace(run_dir / METRICS)
    chosen = best_saved(folder, kept) if config.evaluate.patience is not None else None
    if chosen is not None:
        try:
            checkpoint.copy(folder, run_dir, chosen)
        except CheckpointError as error:
            log.warning("the best checkpoint so far is left behind: %s", error)


def earlier_records(folder: Path, step: int) -> list[dict[str, Any]]:
    """The records of a run up to a step."""
    path = folder / METRICS
    return [record for record in read_metrics(path) if record["step"] <= step] if path.is_file() else []


def best_saved(run_dir: Path, records: list[dict[str, Any]]) -> int | None:
    """The step of the best validation pass among those of which there is a complete checkpoint."""
    saved = set(checkpoint.complete_steps(run_dir))
    chosen = best([record for record in _valid(records) if record["step"] in saved])
    return None if chosen is None else int(chosen["step"])


def _refuse_finished(config: Config, folder: Path, step: int) -> None:
    """Raise ResumeError where a run would end before its first step, or with its first validation."""
    if step >= config.steps:
        raise ResumeError(
            f"resume={folder} has already taken {step} steps: set steps above that, not {config.steps}, "
            f"{_WEIGHTS_ALONE.format(folder)}"
        )
    limit, patience = config.max_timesteps, config.evaluate.patience
    done = 0 if limit is None else checkpoint.load(folder, step, 0)["upstream"]["timesteps"]
    if limit is not None and done >= limit:
        raise ResumeError(
            f"resume={folder} has already run through {done} time steps: set max_timesteps above that, not {limit}, "
            f"{_WEIGHTS_ALONE.format(folder)}"
        )
    passes = waited(_valid(earlier_records(folder, step)))
    if patience is not None and passes >= patience:
        raise ResumeError(
            f"resume={folder} has already seen {passes} validation passes without a better one: set evaluate.patience "
            f"above that, not {patience} (or null), {_WEIGHTS_ALONE.format(folder)}"
        )


def _valid(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["kind"] == "valid"]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
