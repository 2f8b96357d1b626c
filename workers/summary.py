"""What a run leaves behind: `summary.json`, written last, and run folders read back for the report.

A folder with `metrics.jsonl` but without `summary.json` is a run that did not finish.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dni.errors import ConfigError
from workers.record import CONFIG, read_plain
from workers.stopping import best
from workers.versions import versions

SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
OLD_NAMES = {"bits_per_char": "bits_per_label"}
STAGE_KEYS = (
    "busy",
    "steps_per_s",
    "staleness_mean",
    "predictor_cosine",
    "time_cosine",
    "peak_rss_mb",
    "device",
)


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before its first step."""

    depth: str  #: method of the depth cut, e.g. "synthetic"
    time: str  #: method of the time cut, e.g. "truncated"
    experiment: str
    seed: int
    stages: int
    transport: str
    launch: str
    window: int | None  #: W, the most steps in flight on an edge
    lag: int | None  #: the age in steps of the target that is waited for; None: arrival decides
    delay_ms: float  #: emulated one-way delay of an edge
    data_name: str
    data_sha256: str | None
    devices: Sequence[str] = ()  #: by stage; used where a stage's own "end" record names none
    origin: Mapping[str, Any] = field(default_factory=dict)  #: `workers.provenance`: model's size, commit of the code


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with NaN and infinities as None: JSON has no word for them."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


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
    """Write `run_dir/summary.json` in one piece (temporary file, then rename) and return what it holds.

    `stages` and `valid` are the monitor's `summary_stages()` and `valid_history`. `steps` and `wall_s` are
    the fewest steps and the most seconds of any stage's end, None if none ended; `tokens_per_s`:
    characters over the longest training time of any stage (`train_s`, else `wall_s`). Losses: the last, in nats
    per label. `best`: the validation pass with the fewest bits, None without validation. `ended`: what ended the run,
    "interrupted", "diverged", or the setting that did: "steps", "lane_steps" or "patience". `sittings`: what
    `workers.sittings.added_up` says. All figures are added up over the sittings.
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
    loss, characters = last.get("train_loss"), last.get("characters")
    train_s = max((e["train_s"] for e in ends if e.get("train_s")), default=wall_s)
    measured, chosen = valid[-1] if valid else {}, best(valid)
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
        "train": {"loss": loss, "bits_per_label": None if loss is None else loss / math.log(2)},
        "valid": {key: measured.get(key) for key in ("loss", "bits_per_label", "accuracy")},
        "best": None if chosen is None else {key: chosen[key] for key in ("step", "bits_per_label")},
        "stage": [_stage(facts, end) for end in ends],
        "versions": versions(),
        "data": {"name": facts.data_name, "sha256": facts.data_sha256},
        "window": facts.window,
        "lag": facts.lag,
        "delay_ms": facts.delay_ms,
    }


def _stage(facts: RunFacts, end: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {key: end.get(key) for key in ("index", *STAGE_KEYS)}
    if entry["device"] is None and end["index"] < len(facts.devices):
        entry["device"] = facts.devices[end["index"]]
    return entry | {key: end[key] for key in ("probe", "input_r2", "own", "dropped_targets") if key in end}


@dataclass(frozen=True)
class Run:
    """A run folder, read: no `summary` if the run did not finish, no `config` if it left none."""

    path: Path
    summary: dict[str, Any] | None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)


def find_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Every run in these folders: each is a run itself or holds runs at any depth. Sorted by path, each once.

    Raises ConfigError for a missing folder, a folder without runs and damaged files.
    """
    found = {path.resolve(): path for folder in folders for path in _run_folders(Path(folder))}
    return [read_run(path) for _, path in sorted(found.items())]


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give run folders or a folder that holds some")
    if any((folder / name).is_file() for name in (SUMMARY, METRICS)):
        return [folder]
    inside = {path.parent for name in (SUMMARY, METRICS) for path in folder.rglob(name)}
    if not inside:
        raise ConfigError(f"{folder}: no run in it ({SUMMARY}, {METRICS}); give a folder dni-train wrote")
    return sorted(inside)


def read_run(folder: Path) -> Run:
    """Read one run folder. Raises ConfigError, naming file and line, if something in it is damaged."""
    summary, metrics = folder / SUMMARY, folder / METRICS
    return Run(
        path=folder,
        summary=_read_summary(summary) if summary.is_file() else None,
        metrics=read_metrics(metrics) if metrics.is_file() else [],
        config=_read_config(folder),
    )


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    method = summary.get("method") if isinstance(summary, dict) else None
    if not isinstance(method, dict) or not {"depth", "time"} <= method.keys():
        raise _damaged(path, "it names no method (depth and time)")
    stage = summary.get("stage", [])
    if not isinstance(stage, list) or not all(isinstance(e, dict) and isinstance(e.get("index"), int) for e in stage):
        raise _damaged(path, "stage is not a list of entries with an index")
    return _renamed(summary)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`. Raises ConfigError, naming the line, if one is damaged."""
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is still being written
    return [_record(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        record = _renamed(record) if isinstance(record, dict) else record
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"line {number}: {error}") from error
    if not isinstance(record, dict) or not all(isinstance(record.get(key), int) for key in ("stage", "step")):
        raise _damaged(path, f"line {number}: not a record with a stage and a step")
    for key in ("wall_s", "loss", "bits_per_label", "accuracy"):
        if not isinstance(record.get(key), int | float | None):
            raise _damaged(path, f"line {number}: {key} is not a number")
    return record


def _renamed(tree: dict[str, Any]) -> dict[str, Any]:
    """With today's names, also of the figures of older runs."""
    return {OLD_NAMES.get(k, k): _renamed(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    """The record; of a folder that has none, what Hydra wrote there in earlier versions."""
    found = [path for path in (folder / CONFIG, folder / ".hydra" / "config.yaml") if path.is_file()]
    return read_plain(found[0]) if found else {}


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: damaged: {' '.join(why.split())}; mend it or leave this run out")
