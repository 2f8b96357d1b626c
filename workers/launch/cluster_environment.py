"""Read this process's rank, and where stages meet, from the environment that torchrun, submitit, SLURM or Kubernetes
has set.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dni.errors import ConfigError
from workers.comm.address import consent, is_loopback
from workers.config.schema import LaunchMode
from workers.config.settings import Config

Environment = Mapping[str, str]

#: The variable that submitit sets in every process of its jobs, locally or on a cluster.
SUBMITTED = "SUBMITIT_EXECUTOR"

#: Range of the ports where stages meet: below the ephemeral ports of usual systems.
_FIRST, _PORTS = 20000, 12000


@dataclass(frozen=True)
class RankInfo:
    """The rank of this process in a run whose processes an outer engine has started."""

    rank: int
    size: int | None  #: world size; None: one process per stage
    source: str  #: the variable or setting that gave the world size, for messages
    certain: bool  #: whether `launch=auto` uses it
    job: str | None = None  #: the engine's name of this run
    local: int = 1  #: processes on this machine; 1 if unknown

    @property
    def one_machine(self) -> bool:
        """Whether all stages are on this machine."""
        return self.size is not None and self.local >= self.size


def find_rank(environment: Environment) -> RankInfo | None:
    """Return the rank of this process, or None if no engine has set one. Raises ConfigError for a malformed number."""
    for engine in (_torchrun, _submitit, _slurm, _kubernetes):
        rank_info = engine(environment)
        if rank_info is not None:
            return rank_info
    return None


def settle_launch(config: Config, environment: Environment) -> tuple[Config, RankInfo | None]:
    """Apply the rank that an engine has set, with `launch=external`, or with `auto` if the engine is certain.

    Returns the settings and the rank; the rank is None if this process is the whole run. Raises ConfigError if the rank
    does not fit the settings.
    """
    mode = config.launch.mode
    rank_info = find_rank(environment) if mode in (LaunchMode.auto, LaunchMode.external) else None
    if mode is LaunchMode.external and rank_info is None:
        raise ConfigError(
            "launch=external: the environment does not say which stage this is: start it with torchrun or srun, set "
            "RANK and WORLD_SIZE, or, in a pod, DNI_STAGES"
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
            f"launch=external: {rank_info.source} sets {size} processes, but stages={config.stages} and every process "
            f"runs one stage: set stages={size}, or start {config.stages} processes"
        )
    if not 0 <= rank_info.rank < size:
        raise ConfigError(
            f"launch=external: this process has rank {rank_info.rank}, but {rank_info.source} allows 0 to {size - 1}"
        )
    transport = config.transport
    if size == 1 or transport.peers:
        return
    if not (environment.get("MASTER_ADDR") and environment.get("MASTER_PORT")):
        raise ConfigError(
            "launch=external: the stages cannot find each other: set MASTER_ADDR and MASTER_PORT, or "
            "transport.peers=[HOST:PORT,...] with one address per stage"
        )
    private = transport.private if config.can_encrypt else transport.insecure
    if not (rank_info.one_machine or private):
        raise ConfigError(
            "launch=external: the stages appear to be on several machines, and links are neither encrypted nor "
            f"authenticated: {consent(config.can_encrypt)} (or, on one machine, set MASTER_ADDR=localhost)"
        )


def _torchrun(environment: Environment) -> RankInfo | None:
    """Read RANK and WORLD_SIZE, which torchrun and many other engines set."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    size = _number(environment, "WORLD_SIZE")
    known = size if is_loopback(environment.get("MASTER_ADDR", "")) else 1
    local = _number(environment, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environment else known
    job = environment.get("TORCHELASTIC_RUN_ID")
    job = None if job == "none" else job  # torchrun writes "none" if no id was given
    return RankInfo(_number(environment, "RANK"), size, "WORLD_SIZE", size > 1, job, max(1, local))


def _submitit(environment: Environment) -> RankInfo | None:
    """Read the variables of submitit's local executor; on a cluster SLURM sets the rank."""
    if environment.get(SUBMITTED) != "local" or "SUBMITIT_LOCAL_GLOBALID" not in environment:
        return None
    size = _number(environment, "SUBMITIT_LOCAL_NTASKS")
    rank = _number(environment, "SUBMITIT_LOCAL_GLOBALID")
    return RankInfo(rank, size, "hydra.launcher.tasks_per_node", size > 1, None, size)


def _slurm(environment: Environment) -> RankInfo | None:
    """Read the variables of srun. Without a step id this process is the batch script, not one of the tasks."""
    if "SLURM_PROCID" not in environment or "SLURM_NTASKS" not in environment:
        return None
    size = _number(environment, "SLURM_NTASKS")
    machines = _number(environment, "SLURM_NNODES") if "SLURM_NNODES" in environment else size
    certain = size > 1 and "SLURM_STEP_ID" in environment
    job, local = environment.get("SLURM_JOB_ID"), -(-size // max(1, machines))
    return RankInfo(_number(environment, "SLURM_PROCID"), size, "SLURM_NTASKS", certain, job, max(1, local))


def _kubernetes(environment: Environment) -> RankInfo | None:
    """Read the index of a pod from an indexed Job, from POD_INDEX, or from the end of a StatefulSet's pod name."""
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


def rendezvous_address(environment: Environment) -> dict[str, str]:
    """Return MASTER_ADDR and MASTER_PORT for a process that submitit or SLURM started; {} if either is set or unknown.

    The port is computed from the numbers of job and step, so that two jobs on one machine differ.
    """
    if environment.get("MASTER_ADDR") or environment.get("MASTER_PORT"):
        return {}
    if "SUBMITIT_LOCAL_JOB_ID" in environment:
        return _at("127.0.0.1", environment["SUBMITIT_LOCAL_JOB_ID"])
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not nodes or "SLURM_JOB_ID" not in environment:
        return {}
    return _at(first_node(nodes), environment["SLURM_JOB_ID"], environment.get("SLURM_STEP_ID", "0"))


def first_node(nodes: str) -> str:
    """Return the first machine of SLURM's list: node003 of "node[003-007,9],other1"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first.group() if first else nodes)


def _at(host: str, job: str, step: str = "0") -> dict[str, str]:
    job, step = (text if text.isdecimal() else "0" for text in (job, step))
    return {"MASTER_ADDR": host, "MASTER_PORT": str(_FIRST + (int(job) + 997 * int(step)) % _PORTS)}
