"""The network interface that torch's backends listen on: the one that leads to the other side."""

from __future__ import annotations

import os
import socket


def listen_towards(host: str) -> None:
    """Make gloo and NCCL listen on the way to `host`: on the loopback interface, if that is on this machine.

    Elsewhere an interface that the user names (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME) comes first.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing, but chooses the address to send from
        except OSError:  # no IPv4 address: left to torch
            return
        address = probe.getsockname()[0]
        name = _interface(probe, address)
    for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if name is not None and (address.startswith("127.") or key not in os.environ):
            os.environ[key] = name


def _interface(probe: socket.socket, address: str) -> str | None:
    """The name of the interface that has an IPv4 address; None: it cannot be told."""
    names = [name for _, name in socket.if_nameindex()]
    if address.startswith("127."):
        return next((name for name in names if name.startswith("lo")), None)
    import fcntl  # not everywhere

    for name in names:
        try:
            found = fcntl.ioctl(probe.fileno(), 0x8915, name.encode().ljust(256, b"\0"))  # SIOCGIFADDR of Linux
        except OSError:  # it has no such address
            continue
        if socket.inet_ntoa(found[20:24]) == address:
            return name
    return None
