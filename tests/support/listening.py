"""The addresses at which processes listen."""

from __future__ import annotations

import os

import psutil


def listening(*pids: int) -> set[str]:
    """The addresses of every TCP socket at which these processes listen; without any, of this process."""
    return set().union(*(_of(pid) for pid in pids or (os.getpid(),)))


def _of(pid: int) -> set[str]:
    sockets = psutil.Process(pid).net_connections("tcp")
    addresses = {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return {address.removeprefix("::ffff:") for address in addresses}  # an IPv4 address, as sockets of IPv6 write it
