"""Write `summary.json`, the last file of a run.

A folder with `metrics.jsonl` but without `summary.json` is a run that did not finish.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workers.storage.versions import versions
from workers.tracking.early_stopping import best, main_figure
from workers.tracking.run import SUMMARY

STAGE_KEYS = (
    "busy",
    "steps_per_s",
    "staleness_mean",
    "predictor_cosine",
    "time_cosine",
    "peak_rss_mb",
    "device",
)

#: Figures that only some stages have.
OPTIONAL_KEYS = (
    "probe",
    "input_r2",
    "own",
    "dropped_targets",
    "reconnects",
    "restarts",
    "missed_steps",
    "skipped_steps",
    "tied_delay_steps",
    "copied_bytes",
    "sent_mb",
    "bubble",
    "timeline",
)


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run that are known before its first step."""

    depth: str  #: method of the depth cut, e.g. "synthetic"
    time: str  #: method of the time cut, e.g. "truncated"
    experiment: str
    seed: int
    stages: int
    transport: str
    launch: str
    window: int | None  #: W, most frames in flight on an edge
    lag: int | None  #: staleness in steps of every target; None: as targets arrive
    delay_ms: float  #: emulated one-way delay of an edge
    data_name: str
    data_sha256: str | None
    devices: Sequence[str] = ()  #: by stage; used where a stage's own "end" record names none
    origin: Mapping[str, Any] = field(
        default_factory=dict
    )  #: `workers.build.provenance`: model's size, commit of the code


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with NaN and infinities as None, because JSON cannot express them."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return {k: finite(v) if k == "metrics" and isinstance(v, Mapping) else v for k, v in plain.items()}


def write_summary(
    run_dir: str | Path,
    facts: RunFacts,
    *,
    stages: Sequence[Mapping[str, Any]],
    valid: Sequence[Mapping[str, Any]],
    restarts: int = 0,
    ended: str = "steps",
    sittings: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write `run_dir/summary.json` atomically and return its content.

    Args:
        run_dir: the run's folder
        facts: what is known before the first step
        stages, valid: the monitor's `summary_stages()` and `valid_history`
        restarts: restarts of the run
        ended: the setting that ended the run ("steps", "max_timesteps", "patience"), "interrupted" or "diverged"
        sittings: the figures of `workers.tracking.sittings.totals`

    `steps` and `wall_s` are the fewest steps and the most seconds of any stage, None if no stage ended. `tokens_per_s`
    is characters over the longest training time of any stage (`train_s`, else `wall_s`). Losses are the last ones, in
    nats per label; if the loss has another unit, `unit` names it and no figure is in bits. `best` is the validation
    pass with the fewest bits (or the smallest loss), None without validation. All figures count all sittings.
    """
    summary = _summary(facts, [finite(s) for s in stages], [finite(v) for v in valid])
    ends = {"restarts": restarts, "interrupted": ended == "interrupted", "ended": ended}
    summary |= {**ends, **sittings, **facts.origin}
    temporary = Path(run_dir) / f".{SUMMARY}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(summary, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(Path(run_dir) / SUMMARY)
    return summary


def _summary(facts: RunFacts, ends: list[dict[str, Any]], valid: list[dict[str, Any]]) -> dict[str, Any]:
    wall_s = max((e["wall_s"] for e in ends if e.get("wall_s")), default=None)
    last = next((e for e in ends if e["index"] == facts.stages - 1), {})
    unit = {"unit": last["unit"]} if "unit" in last else {}
    directions = {key: last[key] for key in ("higher_is_better",) if key in last}
    loss, characters = last.get("train_loss"), last.get("characters")
    train_s = max((e["train_s"] for e in ends if e.get("train_s")), default=wall_s)
    measured, chosen = valid[-1] if valid else {}, best(valid)
    metrics = {"metrics": measured["metrics"]} if "metrics" in measured else {}
    return {
        "method": {"depth": facts.depth, "time": facts.time},
        "experiment": facts.experiment,
        "seed": facts.seed,
        "stages": facts.stages,
        "transport": facts.transport,
        "launch": facts.launch,
        "steps": min((e["step"] for e in ends), default=None),
        "wall_s": wall_s,
        "tokens_per_s": characters / train_s if characters is not None and train_s else None,
        "train": {"loss": loss, "bits_per_label": None if loss is None or unit else loss / math.log(2)} | unit,
        "valid": {key: measured.get(key) for key in ("loss", "bits_per_label", "accuracy")} | unit | metrics,
        "best": None if chosen is None else {key: chosen[key] for key in ("step", main_figure(chosen))},
        "stage": [_stage(facts, end) for end in ends],
        "versions": versions(),
        "data": {"name": facts.data_name, "sha256": facts.data_sha256},
        "window": facts.window,
        "lag": facts.lag,
        "delay_ms": facts.delay_ms,
        **directions,
    }


def _stage(facts: RunFacts, end: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {key: end.get(key) for key in ("index", *STAGE_KEYS)}
    if entry["device"] is None and end["index"] < len(facts.devices):
        entry["device"] = facts.devices[end["index"]]
    return entry | {key: end[key] for key in OPTIONAL_KEYS if key in end}
