"""What a run leaves behind: `summary.json`, written last, and run folders read back for the report.

A folder with `metrics.jsonl` but without `summary.json` is a run that did not finish.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dni.errors import ConfigError
from workers.stopping import best
from workers.versions import versions

SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
STAGE_KEYS = (
    "busy",
    "steps_per_s",
    "staleness_mean",
    "predictor_cosine",
    "time_cosine",
    "peak_rss_mb",
    "device",
)
#: facts of a summary that set runs apart, the most telling first
FACTS = (
    "window",
    "lag",
    "stages",
    "transport",
    "delay_ms",
    "steps",
    "experiment",
    "data",
    "launch",
    "interrupted",
)
#: settings that do not set runs apart, by the last part of their name
OF_ONE_RUN = {"seed", "run_id", "run_dir", "output_dir", "resume", "bind", "peers"}


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
) -> dict[str, Any]:
    """Write `run_dir/summary.json` in one piece (temporary file, then rename) and return what it holds.

    `stages` and `valid` are the monitor's `summary_stages()` and `valid_history`. `steps` and `wall_s` are
    the fewest steps and the most seconds of any stage's end, None if none ended; `tokens_per_s`:
    characters over the longest training time of any stage (`train_s`, else `wall_s`). Losses: the last, in nats
    per label. `best`: the validation pass with the fewest bits, None without validation. `ended`: what ended the run,
    "interrupted" or the setting that did: "steps", "lane_steps" or "patience".
    """
    summary = _summary(facts, [finite(s) for s in stages], [finite(v) for v in valid])
    summary |= {"restarts": restarts, "interrupted": ended == "interrupted", "ended": ended}
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
        "train": {"loss": loss, "bits_per_char": None if loss is None else loss / math.log(2)},
        "valid": {key: measured.get(key) for key in ("loss", "bits_per_char", "accuracy")},
        "best": None if chosen is None else {key: chosen[key] for key in ("step", "bits_per_char")},
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
    return entry | {key: end[key] for key in ("probe", "input_r2", "own") if key in end}


@dataclass(frozen=True)
class Run:
    """A run folder, read: no `summary` if the run did not finish, no `config` if it left no `.hydra/`."""

    path: Path
    summary: dict[str, Any] | None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, str]:
        """What the run was asked to do, by dotted key, from configuration and summary; no seed, no folder."""
        summary = self.summary or {}
        result = {"steps"} if summary.get("ended") == "patience" else set()  # asked for was what the configuration says
        facts = {key: summary.get(key) for key in ("method", *FACTS) if summary and key not in result}
        flat = dict(_flatten(self.config)) | dict(_flatten(facts))
        flat["method"] = f"{flat.get('method.depth')} + {flat.get('method.time')}"
        return {key: value for key, value in flat.items() if key.rpartition(".")[2] not in OF_ONE_RUN}


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)


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
        config=_read_config(folder / ".hydra" / "config.yaml"),
    )


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_bytes())
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    method = summary.get("method") if isinstance(summary, dict) else None
    if not isinstance(method, dict) or not {"depth", "time"} <= method.keys():
        raise _damaged(path, "it names no method (depth and time)")
    stage = summary.get("stage", [])
    if not isinstance(stage, list) or not all(isinstance(e, dict) and isinstance(e.get("index"), int) for e in stage):
        raise _damaged(path, "stage is not a list of entries with an index")
    return dict(summary)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`. Raises ConfigError, naming the line, if one is damaged."""
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is still being written
    return [_record(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _damaged(path, f"line {number}: {error}") from error
    if not isinstance(record, dict) or not all(isinstance(record.get(key), int) for key in ("stage", "step")):
        raise _damaged(path, f"line {number}: not a record with a stage and a step")
    for key in ("wall_s", "loss", "bits_per_char", "accuracy"):
        if not isinstance(record.get(key), int | float | None):
            raise _damaged(path, f"line {number}: {key} is not a number")
    return record


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False) if path.is_file() else {}
    except Exception as error:  # YAML and OmegaConf share no base class
        raise _damaged(path, str(error)) from error
    return {str(k): v for k, v in config.items()} if isinstance(config, dict) else {}


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: damaged: {' '.join(why.split())}; mend it or leave this run out")
