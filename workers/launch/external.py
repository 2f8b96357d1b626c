"""One stage of a run whose processes an outer engine has started (`launch=external`)."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Protocol

import torch

from dni.errors import ConfigError, DniError, PeerTimeout
from workers.comm.address import UNIX, is_loopback, socket_folder
from workers.comm.transports.base import AUTO, ChannelEnd
from workers.config.settings import Config
from workers.launch.cluster_environment import RankInfo
from workers.launch.record_files import RecordFollower, append
from workers.runtime.assembly import assemble
from workers.runtime.job import Job
from workers.runtime.links import connect, listen
from workers.storage.checkpoint import continue_with
from workers.system.early_exit import no_early_exit
from workers.system.errors import refusals_named
from workers.system.malloc import keep_memory
from workers.system.signals import ENDING

#: What a stage binds to that is to be reached at any of its addresses.
EVERYWHERE = "0.0.0.0"


def run_first_stage(job: Job, rank_info: RankInfo) -> None:
    """Stage 0, and the records of all others, until all have ended."""
    with RecordFollower(job) as others:
        _run(job, rank_info)
        others.until_ended(job.config.transport.timeout_s)


def run_later_stage(config: Config, run_dir: Path, rank_info: RankInfo) -> None:
    """Any other stage. Raises what ends it; the settings have been checked, the data need not have been opened."""
    with socket_folder() as sockets:
        note = partial(append, run_dir, rank_info.rank)
        _run(Job(config, run_dir, note, Event(), sockets=sockets), rank_info)


def _run(job: Job, rank_info: RankInfo) -> None:
    try:
        keep_memory()
        torch.set_num_threads(job.config.torch_threads)
        with refusals_named(), ExitStack() as links, no_early_exit():
            (_run_in_group if job.config.pipelined else _run_linked)(job, rank_info, links)
    except ConfigError as error:
        raise type(error)(_said_by(rank_info.rank, error)) from error
    except DniError as error:
        raise type(error)(f"{_said_by(rank_info.rank, error)}; {continue_with(job.run_dir)}") from error


def _said_by(rank: int, error: DniError) -> str:
    """What it says, with the stage in front, unless it says so itself."""
    said = str(error)
    return said if said.startswith(f"stage {rank}:") else f"stage {rank}: {said}"


def _run_linked(job: Job, rank_info: RankInfo, links: ExitStack) -> None:
    """Link up from the first stage to the last, so that who is linked knows that all before it are; then work."""
    rank, timeout_s = rank_info.rank, job.config.transport.timeout_s
    addresses = find_addresses(job, rank_info)
    upstream = downstream = None
    if rank:
        listener = links.enter_context(closing(listen(job, rank, where_to_listen(job, rank_info))))
        addresses.publish(rank, reachable(listener.address))
        upstream = links.enter_context(closing(listener.accept(timeout_s)))
    if rank < job.config.stages - 1:
        downstream = links.enter_context(closing(connect_by_name(job, rank, addresses.of(rank + 1))))
    with ignoring_signals() if rank else ExitStack():
        assemble(job, rank, upstream, downstream).run()


def _run_in_group(job: Job, rank_info: RankInfo, links: ExitStack) -> None:
    """All ranks of one process group, which meet at the engine's store; then work."""
    # needs torch.distributed, which not every build of torch has
    from workers.launch.store import meet
    from workers.runtime.pipeline.process_group import HERE, process_group
    from workers.runtime.pipeline.worker import PipelinedWorker

    store = meet(rank_info, job.config.transport.timeout_s)
    host = HERE if rank_info.one_machine else os.environ["MASTER_ADDR"]
    links.enter_context(process_group(job, rank_info.rank, store, host))
    with ignoring_signals() if rank_info.rank else ExitStack():
        PipelinedWorker(job, rank_info.rank).run()


def connect_by_name(job: Job, rank: int, address: str) -> ChannelEnd:
    """The edge to the next stage. Raises PeerTimeout, which says so if its machine's name is not known here."""
    try:
        return connect(job, rank, address)
    except PeerTimeout as error:  # not before: names in a cluster may be known later than a stage starts
        host = address.rpartition(":")[0].strip("[]")
        if address.startswith(UNIX) or _is_known(host):
            raise
        listed = bool(job.config.transport.peers)
        way = "name its address in transport.peers" if listed else "start it with transport.bind=ADDRESS:0, its own"
        raise PeerTimeout(f"{error} This machine does not know the name {host}: {way}") from error


def _is_known(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


class Addresses(Protocol):
    """How stages tell each other where they listen."""

    def publish(self, stage: int, address: str) -> None:
        """Say where this stage listens."""

    def of(self, stage: int) -> str:
        """Where another stage listens. Raises PeerTimeout if it has not said so in time."""


class Listed:
    """All addresses are in the settings."""

    def __init__(self, peers: list[str]) -> None:
        self.peers = peers

    def publish(self, stage: int, address: str) -> None:
        """Everyone knows it."""

    def of(self, stage: int) -> str:
        return self.peers[stage]


def find_addresses(job: Job, rank_info: RankInfo) -> Addresses:
    """The list in the settings, or the engine's store."""
    transport = job.config.transport
    if transport.peers or job.config.stages == 1:
        return Listed(transport.peers)
    from workers.launch.store import Stored  # needs torch.distributed, which not every build of torch has

    return Stored(rank_info, job.run_dir.name, transport.timeout_s)


def where_to_listen(job: Job, rank_info: RankInfo) -> str | None:
    """What a stage binds to; None: as on one machine."""
    transport = job.config.transport
    if transport.bind != AUTO:
        return transport.bind
    if transport.peers:
        host, _, port = transport.peers[rank_info.rank].rpartition(":")
        return f"{host if is_loopback(host) else EVERYWHERE}:{port}"
    return None if rank_info.one_machine else f"{EVERYWHERE}:0"


def reachable(address: str) -> str:
    """An address as others need it: with this machine's name for one that stands for all of its addresses."""
    host, _, port = address.rpartition(":")
    if address.startswith(UNIX) or host not in (EVERYWHERE, "[::]"):
        return address
    return f"{socket.gethostname()}:{port}"


@contextmanager
def ignoring_signals() -> Iterator[None]:
    """What an engine tells all its processes, the first stage alone heeds: it ends the run in good order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
