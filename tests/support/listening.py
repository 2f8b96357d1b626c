"""The addresses at which processes listen, as Linux's /proc says."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

LISTENS = "0A"  # the state, as those files write it


def listening(*pids: int) -> set[str]:
    """The addresses of every TCP socket at which these processes listen; without any, of this process."""
    return set().union(*(_of(pid) for pid in pids or (os.getpid(),)))


def _of(pid: int) -> set[str]:
    own = {_target(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table]
    return {_address(one[1]) for one in sockets if one[3] == LISTENS and f"socket:[{one[9]}]" in own}


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:  # closed meanwhile
        return ""


def _address(written: str) -> str:
    """In figures: words of 32 bits, each as the machine stores it, in hexadecimal."""
    host = written.split(":")[0]
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    address = socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)
    return address.removeprefix("::ffff:")  # an IPv4 address, as sockets of IPv6 write it
