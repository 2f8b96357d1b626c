"""Run one stage of a run whose processes an outer engine has started (`launch=external`)."""

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
from workers.comm.transports.secret import secret_of_run
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

#: The address to bind to so that a stage can be reached at every address of its machine.
EVERYWHERE = "0.0.0.0"


def run_first_stage(job: Job, rank_info: RankInfo, linked: Event) -> None:
    """Run stage 0 and collect the records of all other stages until they have ended. Set `linked` before training."""
    with RecordFollower(job) as others:
        _run(job, rank_info, linked)
        others.until_ended(job.config.transport.timeout_s)


def run_later_stage(config: Config, run_dir: Path, rank_info: RankInfo) -> None:
    """Run a later stage. The settings must have been checked; the data need not be open. Raises the error that ends
    it."""
    with socket_folder() as sockets:
        note = partial(append, run_dir, rank_info.rank)
        job = Job(config, run_dir, note, Event(), sockets=sockets, secret=secret_of_run(starts_all=False))
        _run(job, rank_info, Event())


def leave_before(linked: Event) -> None:
    """Raise KeyboardInterrupt before the links are made: there is nothing to save, and the other stages may be gone."""
    if not linked.is_set():
        raise KeyboardInterrupt


def _run(job: Job, rank_info: RankInfo, linked: Event) -> None:
    try:
        keep_memory()
        torch.set_num_threads(job.config.torch_threads)
        with refusals_named(), ExitStack() as links, no_early_exit():
            (_run_in_group if job.config.pipelined else _run_linked)(job, rank_info, links, linked)
    except ConfigError as error:
        raise type(error)(_with_stage(rank_info.rank, error)) from error
    except DniError as error:
        raise type(error)(f"{_with_stage(rank_info.rank, error)}; {continue_with(job.run_dir)}") from error


def _with_stage(rank: int, error: DniError) -> str:
    """Return the error's message with the stage in front, unless it already starts with it."""
    text = str(error)
    return text if text.startswith(f"stage {rank}:") else f"stage {rank}: {text}"


def _run_linked(job: Job, rank_info: RankInfo, links: ExitStack, linked: Event) -> None:
    """Connect the links from the first stage to the last, then train. A connected stage implies that all before it
    are."""
    rank, timeout_s = rank_info.rank, job.config.transport.timeout_s
    addresses = find_addresses(job, rank_info)
    upstream = downstream = None
    if rank:
        listener = links.enter_context(closing(listen(job, rank, where_to_listen(job, rank_info))))
        addresses.publish(rank, reachable(listener.address))
        upstream = links.enter_context(closing(listener.accept(timeout_s)))
    if rank < job.config.stages - 1:
        downstream = links.enter_context(closing(connect_by_name(job, rank, addresses.of(rank + 1))))
    linked.set()
    with ignoring_signals() if rank else ExitStack():
        assemble(job, rank, upstream, downstream).run()


def _run_in_group(job: Job, rank_info: RankInfo, links: ExitStack, linked: Event) -> None:
    """Join the process group of all ranks through the engine's store, then train."""
    # imported here: not every build of torch has torch.distributed
    from workers.launch.store import open_rendezvous
    from workers.runtime.pipeline.process_group import HERE, process_group
    from workers.runtime.pipeline.worker import PipelinedWorker

    store = open_rendezvous(rank_info, job.config.transport.timeout_s)
    host = HERE if rank_info.one_machine else os.environ["MASTER_ADDR"]
    links.enter_context(process_group(job, rank_info.rank, store, host))
    linked.set()
    with ignoring_signals() if rank_info.rank else ExitStack():
        PipelinedWorker(job, rank_info.rank).run()


def connect_by_name(job: Job, rank: int, address: str) -> ChannelEnd:
    """Connect to the next stage. Raises PeerTimeout, which says so if the peer's host name cannot be resolved here."""
    try:
        return connect(job, rank, address)
    except PeerTimeout as error:  # only now: a cluster may publish names after a stage starts
        host = address.rpartition(":")[0].strip("[]")
        if address.startswith(UNIX) or _is_known(host):
            raise
        listed = bool(job.config.transport.peers)
        way = "name its address in transport.peers" if listed else "start that stage with transport.bind=ADDRESS:0"
        raise PeerTimeout(f"{error} This machine cannot resolve the name {host}: {way}") from error


def _is_known(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


class Addresses(Protocol):
    """How stages exchange the addresses at which they listen."""

    def publish(self, stage: int, address: str) -> None:
        """Publish the address at which a stage listens."""

    def of(self, stage: int) -> str:
        """Return another stage's address. Raises PeerTimeout if it is not published in time."""


class Listed:
    """Addresses that are all listed in the settings."""

    def __init__(self, peers: list[str]) -> None:
        self.peers = peers

    def publish(self, stage: int, address: str) -> None:
        """Do nothing: the settings list all addresses."""

    def of(self, stage: int) -> str:
        return self.peers[stage]


def find_addresses(job: Job, rank_info: RankInfo) -> Addresses:
    """Return the list in the settings, or addresses in the engine's store."""
    transport = job.config.transport
    if transport.peers or job.config.stages == 1:
        return Listed(transport.peers)
    from workers.launch.store import Stored  # not every build of torch has torch.distributed

    return Stored(rank_info, job.run_dir.name, transport.timeout_s)


def where_to_listen(job: Job, rank_info: RankInfo) -> str | None:
    """Return the address that a stage binds to; None for the default on one machine."""
    transport = job.config.transport
    if transport.bind != AUTO:
        return transport.bind
    if transport.peers:
        host, _, port = transport.peers[rank_info.rank].rpartition(":")
        return f"{host if is_loopback(host) else EVERYWHERE}:{port}"
    return None if rank_info.one_machine else f"{EVERYWHERE}:0"


def reachable(address: str) -> str:
    """Replace an address that stands for every address of this machine by the machine's name."""
    host, _, port = address.rpartition(":")
    if address.startswith(UNIX) or host not in (EVERYWHERE, "[::]"):
        return address
    return f"{socket.gethostname()}:{port}"


@contextmanager
def ignoring_signals() -> Iterator[None]:
    """Ignore the signals that end a run: an engine sends them to all processes, and the first stage alone handles
    them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
