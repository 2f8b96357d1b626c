"""The process group of a pipelined run: every stage is a rank; gloo joins CPUs, NCCL joins GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from dni.errors import HandshakeRefused, PeerTimeout, WorkerLost
from workers.build.device import device_of
from workers.comm.network_interface import listen_towards
from workers.comm.transports.torch_distributed.store import join_store, open_store
from workers.config.convert import fingerprint
from workers.runtime.job import Job
from workers.runtime.pipeline.roll_call import RollCall

#: Heartbeats of this process's group; torch has one default group per process, too.
_roll_call: RollCall | None = None

#: Address at which the stages of one machine reach each other.
HERE = "127.0.0.1"


def host_store(timeout_s: float) -> tuple[Store, str]:
    """Open a key-value store at a free port of the loopback interface; return it with its HOST:PORT."""
    store = open_store(HERE, 0, timeout_s)
    return store, f"{HERE}:{store.port}"


def reach_store(address: str, timeout_s: float) -> Store:
    """Connect to the store of another process. Raises PeerTimeout."""
    host, _, port = address.rpartition(":")
    try:
        return join_store(host, int(port), timeout_s)
    except dist.DistError as error:
        raise PeerTimeout(f"no store at {address} within {timeout_s:g} s") from error


@contextmanager
def process_group(job: Job, index: int, store: Store, host: str) -> Iterator[None]:
    """Join torch's default process group as rank `index` for the block.

    `host` is the host of the store; ranks listen on the network interface that leads to it. Raises PeerTimeout if a
    rank is late, HandshakeRefused if the ranks disagree about the run.
    """
    timeout_s, device = job.config.transport.timeout_s, device_of(job.config, index)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"  # gloo carries small messages of CPU tensors
    if device.type == "cuda":
        torch.cuda.set_device(device)
    listen_towards(host)
    mine = PrefixStore(f"dni/{job.run_dir.name}", store)
    with lost_neighbours():
        _agree(job, index, mine)
        dist.init_process_group(
            backend, store=mine, rank=index, world_size=job.config.stages, timeout=timedelta(seconds=timeout_s)
        )
    global _roll_call
    hosted = "TORCHELASTIC_USE_AGENT_STORE" not in os.environ
    _roll_call = RollCall(mine, index, job.config.stages, timeout_s, hosted=hosted)
    try:
        yield
    finally:
        _roll_call.end()
        dist.destroy_process_group()


@contextmanager
def lost_neighbours(who: str = "another stage") -> Iterator[None]:
    """Raise torch's errors about a lost or silent rank as WorkerLost or PeerTimeout.

    `who` is the rank that the block waits for; the error names another rank if its heartbeats have stopped.
    """
    try:
        yield
    except RuntimeError as error:
        text = next(iter(str(error).splitlines()), "").split(". This is typically")[0]
        if not (isinstance(error, dist.DistError) or "gloo" in text):
            raise
        silent = None if _roll_call is None else _roll_call.silent()
        if silent is not None:
            message = f"stage {silent} is silent: is its process stopped, or its machine down? ({text})"
            raise PeerTimeout(message) from error
        late = "timed out" in text.lower() or "timeout" in text.lower()
        what = "silent for longer than transport.timeout_s" if late else "gone"
        raise (PeerTimeout if late else WorkerLost)(f"{who} is {what}: {text}") from error


def _agree(job: Job, index: int, store: Store) -> None:
    """Compare this stage's settings and step with those of stage 0. Raises HandshakeRefused if they differ."""
    mine = f"{fingerprint(job.config)} next step {job.start + 1}"
    if index == 0:
        store.set("run", mine)
        return
    first = store.get("run").decode()
    if first != mine:
        raise HandshakeRefused(
            f"stage {index} is in run {mine}, stage 0 in run {first}: start all stages with the same settings"
        )
