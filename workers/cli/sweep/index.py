"""The index of a sweep's folder: which run folder belongs to which settings, and how far each run has come."""

from __future__ import annotations

import enum
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dni.errors import ConfigError
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.storage import checkpoint
from workers.tracking.run import SUMMARY

#: File in a sweep's folder: the digest of the settings of every run, and the name of its folder.
INDEX = "sweep.json"

Progress = enum.Enum("Progress", ["absent", "started", "saved", "finished", "diverged"])


def digest_of(config: Config) -> str:
    """Return the SHA-256 of all settings of a run, as they were composed."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode()).hexdigest()


@dataclass
class Index:
    """The runs of a sweep's folder. Folders are relative to it."""

    sweep_dir: Path
    folders: dict[str, str] = field(default_factory=dict)  #: by the digest of a run's settings

    @classmethod
    def read(cls, sweep_dir: Path) -> Index:
        """Read the index of a folder; an empty one if there is none. Raises ConfigError if it is damaged."""
        path = sweep_dir / INDEX
        if not path.is_file():
            return cls(sweep_dir)
        try:
            folders = json.loads(path.read_bytes())["runs"]
            assert all(isinstance(each, str) for each in folders.values())
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise ConfigError(f"{path}: damaged; name another hydra.sweep.dir") from error
        return cls(sweep_dir, dict(folders))

    def folder(self, digest: str, wanted: Path) -> Path:
        """Return the folder of the run with these settings; a new run gets `wanted`, or a free one beside it."""
        if digest not in self.folders:
            taken, free, number = set(self.folders.values()), wanted, 2
            while self._name(free) in taken or free.exists():
                free, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
            self.folders[digest] = self._name(free)
        return self.sweep_dir / self.folders[digest]

    def write(self) -> None:
        """Write the index atomically."""
        temporary = self.sweep_dir / f".{INDEX}.{os.getpid()}"
        temporary.write_text(json.dumps({"runs": self.folders}, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.sweep_dir / INDEX)

    def _name(self, folder: Path) -> str:
        return os.path.relpath(folder, self.sweep_dir)


def progress_of(run_dir: Path, planned_steps: int) -> Progress:
    """Return how far a run has come. `planned_steps` is the most steps that it takes."""
    summary = _summary(run_dir)
    if summary is not None and summary["ended"] == "diverged":
        return Progress.diverged
    if summary is not None and (not summary["interrupted"] or (summary["steps"] or 0) >= planned_steps):
        return Progress.finished
    if before_end(run_dir, planned_steps):
        return Progress.saved
    return Progress.started if run_dir.exists() else Progress.absent


def before_end(run_dir: Path, planned_steps: int) -> list[int]:
    """Return the steps of the complete checkpoints from which steps remain: a run may be killed after its last one."""
    return [step for step in checkpoint.complete_steps(run_dir) if step < planned_steps]


def _summary(run_dir: Path) -> dict[str, Any] | None:
    """Return the summary of a run; None without one, or with a damaged one."""
    try:
        summary = json.loads((run_dir / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and {"ended", "interrupted", "steps"} <= summary.keys() else None
