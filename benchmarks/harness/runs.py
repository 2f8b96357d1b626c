"""Settings and runs of the benchmarks: composed as `dni-train` composes them, each run in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from workers.config.compose import compose_settings
from workers.config.convert import to_plain
from workers.config.settings import Config

#: The method in depth where a benchmark names none, which was the trainer's when most of them were recorded.
UNNAMED = "depth=synthetic"
#: Experiments that name their own.
NAMING = ("experiment=demo", "experiment=mnist", "experiment=two_clocks")
#: Settings that a later version added to other classes than the default ones: off, they do not count in a recipe.
ADDED = {"data": {"flip": False, "crop_padding": 0}}


def import_from(folder: Path) -> None:
    """Let this process, and the runs that it starts, import the modules of a folder."""
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])


class Failed(Exception):
    """A run did not end well; the message is the line it ended with."""


def named(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Return the settings, with the method in depth that is meant where they name none."""
    does = any(given in NAMING or given.startswith("depth=") for given in overrides)
    return overrides if does else (UNNAMED, *overrides)


def composed(*overrides: str) -> Config:
    """Return the settings of `dni-train`, with `named` ones added."""
    return compose_settings(named(overrides))


def recipe(*overrides: str) -> str:
    """Return a digest of all settings that differ from the defaults, without logging, checkpoints and the data's path.

    A new setting that is off does not change it, so finished results stay valid.
    """
    settings = _different(to_plain(composed(*overrides)), to_plain(Config()))
    watched = ("log_every", "checkpoint")
    asked = {key: value for key, value in settings.items() if key not in watched}
    asked.get("data", {}).pop("path", None)
    for section, added in ADDED.items():
        if section in asked:
            asked[section] = {
                name: value for name, value in asked[section].items() if (name, value) not in added.items()
            }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _different(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        usual = defaults.get(key)  # None: the default class does not have this setting
        if isinstance(value, dict):
            value = _different(value, usual or {})
            if value:
                found[key] = value
        elif value != usual:
            found[key] = value
    return found


def train(folder: Path, *overrides: str, quiet: bool = False) -> dict[str, Any]:
    """Run `dni-train` as a process in `folder`, which is emptied first, with `named` settings; return its summary.

    Raises Failed, or SystemExit if the run was interrupted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "workers", *named(overrides), f"hydra.run.dir={folder}"]
    code, errors = run_to_the_end(command, stdout=subprocess.DEVNULL if quiet else None, stderr=subprocess.PIPE)
    if code == 130:
        sys.exit(f"interrupted; finished runs are kept, this one is in {folder}")
    if code:
        raise Failed((errors.strip().splitlines() or [f"exit code {code}"])[-1])
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def run_to_the_end(command: list[str], *, stdout: int | None = None, stderr: int | None = None) -> tuple[int, str]:
    """Return the exit code and the text on a piped stderr. Ctrl-C reaches the run, which then has time to save."""
    with subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True) as process:
        try:
            errors = process.communicate()[1]
        except KeyboardInterrupt:
            errors = process.communicate()[1]  # a second Ctrl-C ends both
    return process.returncode, errors or ""
