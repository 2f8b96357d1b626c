"""Settings and runs of the benchmarks: composed as `dni-train` composes them, each run in a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from workers.config import Config, from_any, register


class Failed(Exception):
    """A run did not end well; the message is the line it ended with."""


def composed(*overrides: str) -> Config:
    """The settings that `dni-train OVERRIDES` has."""
    register()
    with initialize_config_module("workers.conf", version_base="1.3"):
        return from_any(OmegaConf.to_container(compose("config", overrides=list(overrides))))


def train(folder: Path, *overrides: str, quiet: bool = False) -> dict[str, Any]:
    """`dni-train OVERRIDES` as a process of its own, in `folder`, which is emptied first; its summary.

    Raises Failed, or SystemExit if the run was interrupted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "workers", *overrides, f"hydra.run.dir={folder}"]
    shown = subprocess.DEVNULL if quiet else None
    ended = subprocess.run(command, check=False, stdout=shown, stderr=subprocess.PIPE, text=True)
    if ended.returncode == 130:
        sys.exit(f"interrupted; finished runs are kept, this one is in {folder}")
    if ended.returncode:
        raise Failed((ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1])
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary
