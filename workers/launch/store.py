"""Open the key-value store at MASTER_ADDR:MASTER_PORT, and keep stages' addresses in it."""

from __future__ import annotations

import ipaddress
import os
import socket
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]  # it has one
from torch.distributed.distributed_c10d import Store

from dni.errors import ConfigError, PeerTimeout
from workers.comm.address import is_loopback
from workers.comm.transports.torch_distributed.store import join_store, open_store
from workers.launch.cluster_environment import RankInfo
from workers.runtime.pipeline.process_group import HERE


def open_rendezvous(rank_info: RankInfo, timeout_s: float) -> Store:
    """Return the store at MASTER_ADDR:MASTER_PORT. torchrun provides it; otherwise rank 0 opens it.

    If rank 0 opens it for stages on one machine, it is on loopback. Raises PeerTimeout if it is not open in time,
    ConfigError if this process cannot open it.
    """
    host, port = os.environ["MASTER_ADDR"], _port(os.environ["MASTER_PORT"])
    brought_along = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if rank_info.one_machine and not (brought_along or is_loopback(host)):
        host = HERE
    if rank_info.rank == 0 and not brought_along:
        return _host(host, port, timeout_s)
    try:
        return join_store(host, port, timeout_s)
    except DistError as error:
        raise PeerTimeout(f"no store at MASTER_ADDR:MASTER_PORT within {timeout_s:g} s: {_first(error)}") from error


class Stored:
    """Addresses in the engine's store, under the run's name."""

    def __init__(self, rank_info: RankInfo, run: str, timeout_s: float) -> None:
        self.timeout_s, self.prefix = timeout_s, f"dni/{run}"
        self.store = open_rendezvous(rank_info, timeout_s)

    def publish(self, stage: int, address: str) -> None:
        self.store.set(f"{self.prefix}/stage-{stage}", address)

    def of(self, stage: int) -> str:
        try:
            return str(self.store.get(f"{self.prefix}/stage-{stage}").decode())
        except DistError as error:
            raise PeerTimeout(f"stage {stage} published no address within {self.timeout_s:g} s") from error


def _host(host: str, port: int, timeout_s: float) -> Store:
    """Listen at `host` alone if this machine has that address, otherwise at all addresses of this machine.

    The settings' rules accept names of other machines only if the links may leave this machine.
    """
    try:
        if is_loopback(host) or _is_own(host):
            return open_store(host, port, timeout_s)
        store: Any = TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"stage 0: cannot listen at MASTER_ADDR:MASTER_PORT, {host}:{port} ({_first(error)}): set another "
            "MASTER_PORT"
        ) from error
    return store  # type: ignore[no-any-return]


def _is_own(host: str) -> bool:
    """Return whether `host` is a numeric address at which this machine can listen."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise ConfigError(f"MASTER_PORT={text} in the environment must be a number from 1 to 65535")
    return int(text)


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
