"""How the processes of one run come to write into one folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dni.errors import ConfigError
from workers.config.schema import LaunchMode
from workers.config.settings import Config
from workers.launch.cluster_environment import Environment, RankInfo, find_seat

#: What names a folder, and nothing else.
RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def share_folder(arguments: list[str], environment: Environment, recorded: Config | None = None) -> list[str]:
    """The command's arguments, with the folder that all stages share where an engine has started them.

    `recorded`: of a run that goes on, its settings, which stand where the arguments say nothing.
    Raises ConfigError where nothing names it, and for a multirun, whose runs each engine would have to start anew.
    """
    before = LaunchMode.auto if recorded is None else recorded.launch.mode
    mode = _last(arguments, "launch", "launch.mode") or before.name
    rank_info = find_seat(environment) if mode in (LaunchMode.auto.name, LaunchMode.external.name) else None
    if rank_info is None or not (mode == LaunchMode.external.name or rank_info.certain):
        return arguments
    if {"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*arguments}:
        if (_last(arguments, "hydra/launcher") or "").startswith("submitit_"):
            return arguments  # this process is no stage: it submits jobs, which find their folders in Hydra's sweep
        raise ConfigError(
            "launch=external is one stage of one run, and -m makes many: start a job for each, have them submitted "
            "(hydra/launcher=submitit_slurm), or, on one machine, use launch=processes"
        )
    return [*_overrides(arguments, rank_info, recorded), *arguments]


def _overrides(arguments: Sequence[str], rank_info: RankInfo, recorded: Config | None) -> list[str]:
    name = [f"hydra.job.name=stage-{rank_info.rank}"] if rank_info.rank else []  # logs into a file of its own
    if _last(arguments, "hydra.run.dir") is not None:
        return name
    before = None if recorded is None else recorded.run_id
    run_id = _last(arguments, "run_id") or before or rank_info.job
    if run_id in (None, "null"):
        raise ConfigError("launch=external: what is the folder that all stages share to be called? Set run_id=NAME")
    if not RUN_ID.fullmatch(run_id):
        raise ConfigError(f"run_id={run_id} is to name a folder: use letters, digits, '_', '.' and '-' alone")
    return [f"hydra.run.dir=outputs/{run_id}", *name]


def _last(arguments: Sequence[str], *keys: str) -> str | None:
    """What the last of these overrides says."""
    found = [value for key, sign, value in (a.partition("=") for a in arguments) if sign and key.lstrip("+") in keys]
    return found[-1] if found else None
