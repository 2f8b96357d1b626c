"""Addresses of links: "host:port", or "unix:PATH" for a unix socket."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dni.errors import ConfigError

UNIX = "unix:"

#: Longest path of a unix socket in bytes: 108 on Linux, 104 elsewhere, minus a terminating zero.
LONGEST_PATH = 107 if sys.platform == "linux" else 103

#: A socket's file name is at most this long, whatever the stage.
_LONGEST_NAME = "stage-99999"


def check_address(address: str, private: bool) -> str:
    """Return the host of "host:port", or "unix:PATH" unchanged. Raises ConfigError if the address is not allowed.

    `private`: the link is encrypted, or the user accepts plaintext. Otherwise only loopback addresses are allowed.
    """
    if address.startswith(UNIX):
        return _check_path(address)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"address {address!r} is not host:port")
    if not (private or is_loopback(host)):
        raise ConfigError(
            f"{address} is not a loopback address and the link is neither encrypted nor authenticated: use "
            "127.0.0.1, or set insecure=true if everyone on that network may read and change this run"
        )
    return host


def consent(can_encrypt: bool) -> str:
    """Return the settings that allow links to leave this machine, for error messages."""
    tls = "transport.tls, or " if can_encrypt else ""
    return f"set {tls}transport.insecure=true if everyone on that network may read and change this run"


def is_loopback(host: str) -> bool:
    """Return whether the host's name or address is a loopback one."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextmanager
def socket_folder() -> Iterator[Path | None]:
    """Yield a temporary folder that only this user may enter; None if unix sockets do not work in it."""
    if not hasattr(socket, "AF_UNIX"):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="dni-", ignore_cleanup_errors=True) as name:  # has mode 0700
        folder = Path(name)
        yield folder if _fits(folder / _LONGEST_NAME) else None


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= LONGEST_PATH


def _check_path(address: str) -> str:
    path = Path(address.removeprefix(UNIX))
    if not path.is_absolute() or not _fits(path):
        raise ConfigError(
            f"address {address!r} is not {UNIX} and an absolute path of at most {LONGEST_PATH} bytes: set TMPDIR to a "
            "shorter folder, or transport.bind=127.0.0.1:0"
        )
    return address
