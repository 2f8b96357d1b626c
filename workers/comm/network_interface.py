"""The network interface that torch's backends listen on: the one that leads to the other side."""

from __future__ import annotations

import os
import socket

import psutil


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
    here = address.startswith("127.")
    name = _interface("127.0.0.1" if here else address)
    for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if name is not None and (here or key not in os.environ):
            os.environ[key] = name


def _interface(address: str) -> str | None:
    """The name of the interface that has an address; None: there is none."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, own in interfaces if any(each.address == address for each in own)), None)
