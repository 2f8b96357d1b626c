"""What a summary says of a run's origin: the size of its model, and the commit of the code that ran it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import dni
from workers.build.model import build_chains
from workers.config.settings import Config


def origin_of(config: Config) -> dict[str, Any]:
    """What the summary of a run with these settings says, which must be resolved with the data."""
    return {"parameters": count_parameters(config), "commit": commit_of()}


def count_parameters(config: Config) -> int:
    """Numbers in the parameters of the whole model, all stages together; predictors and local heads are not in it."""
    with torch.device("meta"):  # shapes alone
        return sum(parameter.numel() for chain in build_chains(config) for parameter in chain.parameters())


@cache
def commit_of(package: Path = Path(dni.__file__)) -> str | None:
    """The commit of the git checkout that this package file is in; "-dirty" follows it if tracked files were changed.

    None for a package that was installed from a wheel, also inside of a checkout of something else, and without git.
    """
    folder = package.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", package.name) is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *words: str) -> str | None:
    """What git answers; None if it refuses, or is not there. It writes nothing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
