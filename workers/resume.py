"""Go on with an earlier run: which checkpoint, whether it is the same run, and what its folder hands on."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from dni.errors import ResumeError
from workers import checkpoint
from workers.child import CONFIG
from workers.config import Config, from_any, to_plain
from workers.stopping import best, waited
from workers.summary import METRICS, read_metrics
from workers.versions import changed_versions

log = logging.getLogger(__name__)

#: Sections that may not change when a run goes on.
AGREED = ("seed", "stages", "model", "data", "depth", "time", "predictor", "optimizer")


def settle_resume(config: Config) -> Config:
    """Name the checkpoint to go on from, and refuse a run that is not the same. Raises ResumeError."""
    if config.resume is None:
        return config
    folder = Path(config.resume)
    if not (folder / CONFIG).is_file():
        raise ResumeError(f"resume={folder}: no {CONFIG} in it; give the folder of a run")
    complete = checkpoint.complete_steps(folder)
    step = complete[-1] if complete and config.resume_step is None else config.resume_step
    if step is None:
        raise ResumeError(f"resume={folder}: no checkpoint in it is complete; start the run anew, without resume")
    if step not in complete:
        raise ResumeError(f"resume={folder}: no complete checkpoint of step {step}; complete are: {complete or 'none'}")
    before = replace(from_any(folder / CONFIG), resume=None)
    changed = differences(to_plain(before), to_plain(config))
    if changed:
        raise ResumeError(f"resume={folder} was another run: {', '.join(changed)}; leave these settings as they were")
    _refuse_finished(config, folder, step)
    return replace(config, resume=str(folder.absolute()), resume_step=step)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings of the agreed sections that differ, as `key was old, now new`.

    A digest that was not recorded says nothing: earlier versions had none of images.
    """
    old, new = _flat(before), _flat(now)
    keys = [key for key in old if key.split(".")[0] in AGREED and (key, old[key]) != ("data.sha256", None)]
    return [f"{key} was {old[key]}, now {new.get(key)}" for key in keys if old[key] != new.get(key)]


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
    (run_dir / METRICS).write_text("".join(json.dumps(record) + "\n" for record in kept))
    chosen = best_saved(folder, kept) if config.evaluate.patience is not None else None
    if chosen is not None:
        checkpoint.copy(folder, run_dir, chosen)


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
        raise ResumeError(f"resume={folder} has already taken {step} steps: set steps above that, not {config.steps}")
    limit, patience = config.lane_steps, config.evaluate.patience
    done = 0 if limit is None else checkpoint.load(folder, step, 0)["upstream"]["lane_steps"]
    if limit is not None and done >= limit:
        raise ResumeError(
            f"resume={folder} has already run through {done} time steps: set lane_steps above that, not {limit}"
        )
    passes = waited(_valid(earlier_records(folder, step)))
    if patience is not None and passes >= patience:
        raise ResumeError(
            f"resume={folder} has already seen {passes} validation passes without a better one: set evaluate.patience "
            f"above that, not {patience} (or null)"
        )


def _valid(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["kind"] == "valid"]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
