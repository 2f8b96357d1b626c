"""Origin of a run for its summary: the size of its model and the commit of its code."""

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
    """Return the summary's entries. The settings must be resolved with the data."""
    return {"parameters": count_parameters(config), "commit": commit_of()}


def count_parameters(config: Config) -> int:
    """Count the parameters of the whole model, without predictors and local heads."""
    with torch.device("meta"):  # no weights are allocated
        parameters = {id(each): each for chain in build_chains(config) for each in chain.parameters()}
    return sum(each.numel() for each in parameters.values())


@cache
def commit_of(package: Path = Path(dni.__file__)) -> str | None:
    """Return the commit of the git checkout that holds this file, with "-dirty" if tracked files have changed.

    Return None if git is missing or does not track the file (a package installed from a wheel).
    """
    folder = package.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", package.name) is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *words: str) -> str | None:
    """Return git's output, without writing to the repository; None if git fails or is missing."""
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
