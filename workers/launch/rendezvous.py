"""Where stages find each other's addresses if nobody has said it: their engine's name of the job is enough to agree."""

from __future__ import annotations

import re

from workers.launch.cluster_environment import Environment

#: Ports for it: below those that systems hand out by themselves.
_FIRST, _PORTS = 20000, 12000


def rendezvous_address(environment: Environment) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT, where either submitit or SLURM started this process and neither is set; or nothing.

    The port follows from the names of job and step, so that two on one machine do not meet.
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
    """The first of SLURM's list of machines: node003 of "node[003-007,9],other1"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first.group() if first else nodes)


def _at(host: str, job: str, step: str = "0") -> dict[str, str]:
    job, step = (text if text.isdecimal() else "0" for text in (job, step))
    return {"MASTER_ADDR": host, "MASTER_PORT": str(_FIRST + (int(job) + 997 * int(step)) % _PORTS)}
