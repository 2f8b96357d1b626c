"""Agree on one folder for all processes of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dni.errors import ConfigError
from workers.config.schema import LaunchMode
from workers.config.settings import Config
from workers.launch.cluster_environment import Environment, RankInfo, find_rank

#: A valid folder name.
RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def share_folder(arguments: list[str], environment: Environment, recorded: Config | None = None) -> list[str]:
    """Add the shared run folder to the command's arguments, if an outer engine has started the stages.

    `recorded` holds the settings of a run to resume; they apply where the arguments say nothing. Raises ConfigError if
    nothing names the folder, and for a multirun, which an engine cannot start as one job.
    """
    before = LaunchMode.auto if recorded is None else recorded.launch.mode
    mode = _last(arguments, "launch", "launch.mode") or before.name
    rank_info = find_rank(environment) if mode in (LaunchMode.auto.name, LaunchMode.external.name) else None
    if rank_info is None or not (mode == LaunchMode.external.name or rank_info.certain):
        return arguments
    if {"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*arguments}:
        if (_last(arguments, "hydra/launcher") or "").startswith("submitit_"):
            return arguments  # this process only submits jobs; Hydra's sweep names their folders
        raise ConfigError(
            "launch=external runs one stage of one run, but -m starts many runs: start a job for each, submit them "
            "(hydra/launcher=submitit_slurm), or, on one machine, use launch=processes"
        )
    return [*_overrides(arguments, rank_info, recorded), *arguments]


def _overrides(arguments: Sequence[str], rank_info: RankInfo, recorded: Config | None) -> list[str]:
    name = [f"hydra.job.name=stage-{rank_info.rank}"] if rank_info.rank else []  # a log file of its own
    if _last(arguments, "hydra.run.dir") is not None:
        return name
    before = None if recorded is None else recorded.run_id
    run_id = _last(arguments, "run_id") or before or rank_info.job
    if run_id in (None, "null"):
        raise ConfigError("launch=external: all stages need one folder: name it with run_id=NAME")
    if not RUN_ID.fullmatch(run_id):
        raise ConfigError(f"run_id={run_id} must be a folder name of letters, digits, '_', '.' and '-'")
    return [f"hydra.run.dir=outputs/{run_id}", *name]


def _last(arguments: Sequence[str], *keys: str) -> str | None:
    """Return the value of the last of these overrides, or None."""
    found = [value for key, sign, value in (a.partition("=") for a in arguments) if sign and key.lstrip("+") in keys]
    return found[-1] if found else None
