"""Which stage this process is, as what started it says: torchrun, submitit, SLURM, or Kubernetes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dni.errors import ConfigError
from workers.comm.address import consent, is_loopback
from workers.config.schema import LaunchMode
from workers.config.settings import Config

Environment = Mapping[str, str]

#: Set in every process of a job that submitit runs, here or on a cluster.
SUBMITTED = "SUBMITIT_EXECUTOR"


@dataclass(frozen=True)
class RankInfo:
    """One stage's place in a run whose processes an engine has started."""

    rank: int
    size: int | None  #: how many processes there are; None: as many as stages
    said_by: str  #: what said so, for messages
    certain: bool  #: whether `launch=auto` relies on it
    job: str | None = None  #: what the engine calls this run
    local: int = 1  #: how many of the processes are on this machine, as far as is known

    @property
    def one_machine(self) -> bool:
        """Whether all stages are on this machine."""
        return self.size is not None and self.local >= self.size


def find_seat(environment: Environment) -> RankInfo | None:
    """The seat of this process; None if no engine gave it one. Raises ConfigError for what is not a number."""
    for engine in (_torchrun, _submitit, _slurm, _kubernetes):
        rank_info = engine(environment)
        if rank_info is not None:
            return rank_info
    return None


def settle_launch(config: Config, environment: Environment) -> tuple[Config, RankInfo | None]:
    """Take the seat that an engine offers, with `launch=external`, or with `auto` where there is no doubt.

    None: this process is the whole run. Raises ConfigError if the seat does not fit the settings.
    """
    mode = config.launch.mode
    rank_info = find_seat(environment) if mode in (LaunchMode.auto, LaunchMode.external) else None
    if mode is LaunchMode.external and rank_info is None:
        raise ConfigError(
            "launch=external: nothing says which stage this is: start it with torchrun or srun, set RANK and "
            "WORLD_SIZE, or, in a pod, DNI_STAGES"
        )
    if rank_info is None or not (mode is LaunchMode.external or rank_info.certain):
        return config, None
    _fit(config, rank_info, environment)
    threads = config.launch.torch_threads or max(1, (os.cpu_count() or 1) // rank_info.local)
    return replace(config, launch=replace(config.launch, mode=LaunchMode.external, torch_threads=threads)), rank_info


def _fit(config: Config, rank_info: RankInfo, environment: Environment) -> None:
    size = config.stages if rank_info.size is None else rank_info.size
    if size != config.stages:
        raise ConfigError(
            f"launch=external: {rank_info.said_by} says that there are {size} processes, and stages={config.stages}: "
            f"each is one stage: set stages={size}, or start {config.stages}"
        )
    if not 0 <= rank_info.rank < size:
        raise ConfigError(
            f"launch=external: {rank_info.said_by} calls this process {rank_info.rank}, of 0 to {size - 1}"
        )
    transport = config.transport
    if size == 1 or transport.peers:
        return
    if not (environment.get("MASTER_ADDR") and environment.get("MASTER_PORT")):
        raise ConfigError(
            "launch=external: how are the stages to find each other? Set MASTER_ADDR and MASTER_PORT, or "
            "transport.peers=[HOST:PORT,...], one for each stage"
        )
    private = transport.private if config.can_encrypt else transport.insecure
    if not (rank_info.one_machine or private):
        raise ConfigError(
            "launch=external: the stages are on several machines, as far as is known, and links are neither encrypted "
            f"nor authenticated: {consent(config.can_encrypt)} (or, on one machine, MASTER_ADDR=localhost)"
        )


def _torchrun(environment: Environment) -> RankInfo | None:
    """What torchrun and its likes set; many other engines do, too."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    size = _number(environment, "WORLD_SIZE")
    known = size if is_loopback(environment.get("MASTER_ADDR", "")) else 1
    local = _number(environment, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environment else known
    job = environment.get("TORCHELASTIC_RUN_ID")
    job = None if job == "none" else job  # torchrun's word for one that was not given
    return RankInfo(_number(environment, "RANK"), size, "WORLD_SIZE", size > 1, job, max(1, local))


def _submitit(environment: Environment) -> RankInfo | None:
    """What submitit sets for the tasks of a job on this machine; on a cluster it is SLURM that says so."""
    if environment.get(SUBMITTED) != "local" or "SUBMITIT_LOCAL_GLOBALID" not in environment:
        return None
    size = _number(environment, "SUBMITIT_LOCAL_NTASKS")
    rank = _number(environment, "SUBMITIT_LOCAL_GLOBALID")
    return RankInfo(rank, size, "hydra.launcher.tasks_per_node", size > 1, None, size)


def _slurm(environment: Environment) -> RankInfo | None:
    """What srun sets. Without a step this is the batch script, which is not one of the tasks."""
    if "SLURM_PROCID" not in environment or "SLURM_NTASKS" not in environment:
        return None
    size = _number(environment, "SLURM_NTASKS")
    machines = _number(environment, "SLURM_NNODES") if "SLURM_NNODES" in environment else size
    certain = size > 1 and "SLURM_STEP_ID" in environment
    job, local = environment.get("SLURM_JOB_ID"), -(-size // max(1, machines))
    return RankInfo(_number(environment, "SLURM_PROCID"), size, "SLURM_NTASKS", certain, job, max(1, local))


def _kubernetes(environment: Environment) -> RankInfo | None:
    """The index of a pod: of an indexed Job, in POD_INDEX, or at the end of the name that a StatefulSet gives."""
    if "DNI_STAGES" not in environment and "KUBERNETES_SERVICE_HOST" not in environment:
        return None
    size = _number(environment, "DNI_STAGES") if "DNI_STAGES" in environment else None
    tail = (environment.get("HOSTNAME") or socket.gethostname()).rpartition("-")[2]
    for key in ("JOB_COMPLETION_INDEX", "POD_INDEX"):
        if environment.get(key):
            return RankInfo(_number(environment, key), size, "DNI_STAGES", size is not None and size > 1)
    return RankInfo(int(tail), size, "DNI_STAGES", size is not None and size > 1) if tail.isdecimal() else None


def _number(environment: Environment, key: str) -> int:
    if not environment[key].isdecimal():
        raise ConfigError(f"{key}={environment[key]} in the environment must be a number, 0 or more")
    return int(environment[key])
