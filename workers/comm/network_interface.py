"""Choose the network interface that gloo and NCCL listen on: the one with the route to the peer."""

from __future__ import annotations

import os
import socket

import psutil


def listen_towards(host: str) -> None:
    """Make gloo and NCCL listen on the interface with the route to `host`.

    This is the loopback interface if `host` is this machine. Otherwise an interface that the user has set in
    GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME wins.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing; the system only picks the source address
        except OSError:  # no IPv4 address: torch chooses
            return
        address = probe.getsockname()[0]
    here = address.startswith("127.")
    name = _interface("127.0.0.1" if here else address)
    for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if name is not None and (here or key not in os.environ):
            os.environ[key] = name


def _interface(address: str) -> str | None:
    """Return the name of the interface with this address; None if there is none."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, own in interfaces if any(each.address == address for each in own)), None)
