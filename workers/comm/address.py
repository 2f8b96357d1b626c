"""Addresses of links: "host:port", or "unix:PATH" for a socket that is a file of this machine."""

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

#: Bytes of the longest path of a unix socket: Linux has 108, others 104, and the last one is zero.
LONGEST_PATH = 107 if sys.platform == "linux" else 103

#: What a stage of any number calls its socket.
_LONGEST_NAME = "stage-99999"


def check_address(address: str, private: bool) -> str:
    """The host of "host:port", or the whole of "unix:PATH". Raises ConfigError if the address is not allowed.

    `private`: whether nobody else can read the link, or the user says that this does not matter; if not, it must not
    leave this machine.
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
    """What to set so that links may leave this machine, for messages."""
    tls = "transport.tls, or " if can_encrypt else ""
    return f"set {tls}transport.insecure=true if everyone on that network may read and change this run"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host, by what its name says."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextmanager
def socket_folder() -> Iterator[Path | None]:
    """A folder that only this user may enter, removed at the end; None where unix sockets do not work in it."""
    if not hasattr(socket, "AF_UNIX"):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="dni-", ignore_cleanup_errors=True) as name:  # made with mode 0700
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
