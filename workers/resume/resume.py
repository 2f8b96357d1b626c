"""Resume an earlier run: find the checkpoint, refuse changed settings, and copy the earlier records."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from dni.errors import CheckpointError, ConfigError, ResumeError
from dni.models.base import SplitKind
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.resume.repartition import cut_as, settle_cuts
from workers.resume.schedule import settle_schedule
from workers.storage import checkpoint
from workers.storage.record import read_record
from workers.storage.versions import changed_versions
from workers.system.errors import about
from workers.tracking.early_stopping import best, passes_since_best
from workers.tracking.run import METRICS, read_metrics

log = logging.getLogger(__name__)

#: Sections that may not change when a run is resumed.
AGREED = ("seed", "stages", "model", "data", "loss", "depth", "time", "predictor", "optimizer")


_WEIGHTS_ALONE = "or take its weights alone into a new run: start_from={} instead of resume"


def settle_resume(config: Config, decay_steps: int | None = None) -> Config:
    """Fill in the step to resume from, and refuse settings of another run. Raises ResumeError.

    `decay_steps` is optimizer.schedule.decay_steps as given; `config` has it filled in.
    """
    if config.resume is None:
        return config
    folder = Path(config.resume)
    before = replace(before_resume(folder), resume=None)
    step = _whole_checkpoint(folder, config.resume_step)
    config = _cut_as_before(_drop_start(config, before), before)
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


def _whole_checkpoint(folder: Path, given: int | None) -> int:
    """Return the step to resume from: the given one, or the newest whole one. Raises ResumeError."""
    try:
        step = checkpoint.newest_whole(folder) if given is None else given
        if step is not None and checkpoint.verify(folder, step):
            return step
    except CheckpointError as error:
        others = [step for step in checkpoint.complete_steps(folder) if step != given] if given is not None else []
        way = f"try resume_step={others[-1]}" if others else "start a new run, without resume"
        raise ResumeError(f"resume={folder}: {error}; {way}") from error
    if given is None:
        raise ResumeError(f"resume={folder}: it holds no complete checkpoint; start a new run, without resume")
    complete = checkpoint.complete_steps(folder) or "none"
    raise ResumeError(f"resume={folder}: no complete checkpoint of step {given}; complete steps: {complete}")


def _drop_start(config: Config, before: Config) -> Config:
    """Drop `start_from`: a resumed run takes its weights from its own checkpoint. Raises ResumeError if it is another
    than the run's."""
    if config.start_from is None:
        return config
    if before.start_from is None or Path(before.start_from) != Path(config.start_from).expanduser().absolute():
        raise ResumeError(
            f"resume={config.resume} continues a run with all its state, start_from={config.start_from} takes the "
            "weights alone into a new run: leave out one of the two"
        )
    return replace(config, start_from=None, start_step=None)


def _cut_as_before(config: Config, before: Config) -> Config:
    """Where a run was cut by measured times it stays cut, also if its model is named anew."""
    if {config.model.split, before.model.split} != {SplitKind.measured} or config.model.split_points:
        return config
    return replace(config, model=replace(config.model, split_points=before.model.split_points))


def before_resume(folder: Path) -> Config:
    """Read the settings of a run to resume. Raises ResumeError if there are none or they are damaged."""
    try:
        return read_record(folder)
    except ConfigError as error:
        raise ResumeError(f"resume={folder}: {error}") from error


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings that differ in the agreed sections, each as `key was old, now new`.

    A missing digest of the data is no difference: earlier versions recorded none for images.
    """
    old, new = _flat(before), _flat(now)
    keys = [key for key in old | new if key.split(".")[0] in AGREED and (key, old.get(key)) != ("data.sha256", None)]
    return [f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def warn_of_versions(config: Config) -> None:
    """Warn about versions of libraries that differ from those the run was computed with."""
    changed = changed_versions(Path(config.resume)) if config.resume is not None else []
    if changed:
        what = ", ".join(changed)
        log.warning("resume=%s continues with other versions: %s; last digits may differ", config.resume, what)


def copy_earlier_records(config: Config, run_dir: Path) -> None:
    """Copy the earlier run's records up to the resumed step into the run's folder.

    With patience, also copy the best checkpoint so far: it may remain the best.
    """
    if config.resume is None or config.resume_step is None:
        return
    folder = Path(config.resume)
    kept = earlier_records(folder, config.resume_step)  # read in full: it may be the file that is written
    part = run_dir / f".{METRICS}.part"
    with about(run_dir / METRICS):
        part.write_text("".join(json.dumps(record) + "\n" for record in kept))
        part.replace(run_dir / METRICS)
    chosen = best_saved(folder, kept) if config.evaluate.patience is not None else None
    if chosen is not None:
        try:
            checkpoint.copy(folder, run_dir, chosen)
        except CheckpointError as error:
            log.warning("the best checkpoint so far is not copied: %s", error)


def earlier_records(folder: Path, step: int) -> list[dict[str, Any]]:
    """Return the records of a run up to a step."""
    path = folder / METRICS
    return [record for record in read_metrics(path) if record["step"] <= step] if path.is_file() else []


def best_saved(run_dir: Path, records: list[dict[str, Any]]) -> int | None:
    """Return the step of the best validation pass that has a complete checkpoint, or None."""
    saved = set(checkpoint.complete_steps(run_dir))
    chosen = best([record for record in _valid(records) if record["step"] in saved])
    return None if chosen is None else int(chosen["step"])


def _refuse_finished(config: Config, folder: Path, step: int) -> None:
    """Raise ResumeError if the run would end before its first step or at its first validation."""
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
    passes = passes_since_best(_valid(earlier_records(folder, step)))
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
