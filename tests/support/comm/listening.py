"""Find the addresses at which processes listen."""

from __future__ import annotations

import os

import psutil


def listening(*pids: int) -> set[str]:
    """Return the addresses of the listening TCP sockets of these processes; without arguments, of this one."""
    return set().union(*(_of(pid) for pid in pids or (os.getpid(),)))


def _of(pid: int) -> set[str]:
    sockets = psutil.Process(pid).net_connections("tcp")
    addresses = {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return {address.removeprefix("::ffff:") for address in addresses}  # IPv4 addresses of IPv6 sockets
