"""Derive the rendezvous address of a job from SLURM's or submitit's variables, if none is set."""

from __future__ import annotations

import re

from workers.launch.cluster_environment import Environment

#: Range of ports: below the ephemeral ports of usual systems.
_FIRST, _PORTS = 20000, 12000


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
