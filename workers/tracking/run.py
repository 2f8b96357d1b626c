"""Read run folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dni.errors import ConfigError
from workers.storage.record import CONFIG, read_plain

SUMMARY = "summary.json"


METRICS = "metrics.jsonl"


OLD_NAMES = {"bits_per_char": "bits_per_label"}


@dataclass(frozen=True)
class Run:
    """The content of a run folder: no `summary` if the run did not finish, no `config` if there is no record."""

    path: Path
    summary: dict[str, Any] | None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)


def find_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Return every run in these folders, each once, sorted by path. A folder is a run or holds runs at any depth.

    Raises ConfigError for a missing folder, a folder without runs and damaged files.
    """
    found = {path.resolve(): path for folder in folders for path in _run_folders(Path(folder))}
    return [read_run(path) for _, path in sorted(found.items())]


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give run folders or a folder of runs")
    if any((folder / name).is_file() for name in (SUMMARY, METRICS)):
        return [folder]
    inside = {path.parent for name in (SUMMARY, METRICS) for path in folder.rglob(name)}
    if not inside:
        raise ConfigError(f"{folder}: no run here ({SUMMARY}, {METRICS}); give a folder that dni-train wrote")
    return sorted(inside)


def read_run(folder: Path) -> Run:
    """Read one run folder. Raises ConfigError, naming file and line, if a file is damaged."""
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
    """Return the records of a `metrics.jsonl`. Raises ConfigError, naming the line, if one is damaged."""
    lines = path.read_bytes().split(b"\n")[:-1]  # the text after the last newline is still being written
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
    """Rename figures of older runs to today's names."""
    return {OLD_NAMES.get(k, k): _renamed(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the record of settings; of runs of earlier versions, Hydra's own file; {} without either."""
    found = [path for path in (folder / CONFIG, folder / ".hydra" / "config.yaml") if path.is_file()]
    return read_plain(found[0]) if found else {}


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: damaged: {' '.join(why.split())}; repair it or leave this run out")
