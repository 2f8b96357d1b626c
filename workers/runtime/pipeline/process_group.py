"""The process group of a pipelined run: every stage is a rank, joined by gloo between CPUs, NCCL between GPUs."""

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

#: Of this process's group, of which torch, too, has one alone.
_roll_call: RollCall | None = None

#: Where the stages of one machine meet.
HERE = "127.0.0.1"


def host_store(timeout_s: float) -> tuple[Store, str]:
    """A key-value store of this process at a free port of the loopback interface, and its HOST:PORT."""
    store = open_store(HERE, 0, timeout_s)
    return store, f"{HERE}:{store.port}"


def reach_store(address: str, timeout_s: float) -> Store:
    """The store of another process. Raises PeerTimeout."""
    host, _, port = address.rpartition(":")
    try:
        return join_store(host, int(port), timeout_s)
    except dist.DistError as error:
        raise PeerTimeout(f"no store at {address} within {timeout_s:g} s") from error


@contextmanager
def process_group(job: Job, index: int, store: Store, host: str) -> Iterator[None]:
    """torch's default process group, with stage `index` as the rank of this process.

    `host`: where the store is reached; the ranks listen on the interface that leads there. Raises PeerTimeout if not
    all come in time, HandshakeRefused if they do not agree about the run.
    """
    timeout_s, device = job.config.transport.timeout_s, device_of(job.config, index)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"  # small messages are between CPUs
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
    """What torch says when a rank is gone, or silent for too long, becomes WorkerLost or PeerTimeout.

    A stage of which no sign of life is seen is the first cause, whoever was waited for.
    """
    try:
        yield
    except RuntimeError as error:
        text = next(iter(str(error).splitlines()), "").split(". This is typically")[0]
        if not (isinstance(error, dist.DistError) or "gloo" in text):
            raise
        silent = None if _roll_call is None else _roll_call.silent()
        if silent is not None:
            said = f"stage {silent} is silent: is its process stopped, or its machine down? ({text})"
            raise PeerTimeout(said) from error
        late = "timed out" in text.lower() or "timeout" in text.lower()
        what = "silent for longer than transport.timeout_s" if late else "gone"
        raise (PeerTimeout if late else WorkerLost)(f"{who} is {what}: {text}") from error


def _agree(job: Job, index: int, store: Store) -> None:
    """Every stage says which run it is in; all must say what the first one says."""
    mine = f"{fingerprint(job.config)} next step {job.start + 1}"
    if index == 0:
        store.set("run", mine)
        return
    first = store.get("run").decode()
    if first != mine:
        raise HandshakeRefused(
            f"stage {index} is in run {mine}, stage 0 in run {first}: start all stages with the same settings"
        )
