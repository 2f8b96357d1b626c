"""Key-value stores of torch for the rendezvous of two stages."""

from __future__ import annotations

import socket
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it has one


def open_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """Open a store that listens at this address only; torch by default listens at every address of the machine.

    Raises OSError or RuntimeError if that is impossible.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host.strip("[]"), port), family=family)
    return TCPStore(
        host.strip("[]"), listening.getsockname()[1], is_master=True, wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s), master_listen_fd=listening.detach(),
    )  # fmt: skip


def join_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """Connect to the store at this address. Raises RuntimeError if there is none."""
    return TCPStore(host.strip("[]"), port, is_master=False, timeout=timedelta(seconds=timeout_s))
