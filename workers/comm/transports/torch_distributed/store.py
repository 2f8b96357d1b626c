"""The stores of torch in which two stages meet."""

from __future__ import annotations

import socket
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it has one


def open_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """A store that listens at this address alone; left to itself, torch's would listen at all of this machine's.

    Raises OSError or RuntimeError if that cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host.strip("[]"), port), family=family)
    return TCPStore(
        host.strip("[]"), listening.getsockname()[1], is_master=True, wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s), master_listen_fd=listening.detach(),
    )  # fmt: skip


def join_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """The store that listens there. Raises RuntimeError if none does."""
    return TCPStore(host.strip("[]"), port, is_master=False, timeout=timedelta(seconds=timeout_s))
