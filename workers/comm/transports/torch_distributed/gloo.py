"""Send CPU tensors between two processes or threads with torch.distributed's gloo.

Properties of gloo that determine this design: a wait that times out breaks the pair; a tensor does not arrive if it or
the `Work` that sends it is freed early; a tensor is sent only after the peer has posted a receive for it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store, Work  # type: ignore[attr-defined]

#: A timeout that never ends.
FOREVER = timedelta(days=365)

_NEVER_SENT = 99  # tag
_AT_ONCE = timedelta(milliseconds=1)


class Waitable(Protocol):
    """A send or receive in progress."""

    def wait(self, timeout: timedelta, /) -> object: ...


class GlooPair:
    """One side of a group of two. Tensors sent with one tag arrive in order."""

    def __init__(self, store: Store, name: str, rank: int, host: str, timeout_s: float) -> None:
        """Join the peer through the store; `host` is the address of this side. Raises RuntimeError if it fails."""
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # missing in the stubs
        options._timeout = timedelta(seconds=timeout_s)
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        options._threads = 1  # only collective operations need more
        self._group: Any = ProcessGroupGloo(PrefixStore(name, store), rank, 2, options)
        self._peer = 1 - rank

    def send(self, tensor: Tensor, tag: int) -> Work:
        """Send a contiguous CPU tensor. Keep the tensor and the result until `wait` has returned."""
        work: Work = self._group.send([tensor], self._peer, tag)
        return work

    def recv(self, tensor: Tensor, tag: int) -> Work:
        """Receive the next tensor with this tag into `tensor`, which must be at least as large."""
        work: Work = self._group.recv([tensor], self._peer, tag)
        return work

    def end(self) -> None:
        """Break the pair: every wait on either side raises RuntimeError."""
        with suppress(RuntimeError):
            self.recv(torch.empty(1, dtype=torch.uint8), _NEVER_SENT).wait(_AT_ONCE)


def wait(work: Waitable) -> None:
    """Wait until the operation is done. Raises RuntimeError if the pair is broken."""
    work.wait(FOREVER)


def local_address_towards(host: str, port: int) -> str:
    """Return the numeric address from which this machine reaches `host`. Raises OSError if it cannot."""
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def error_text(error: Exception) -> str:
    """Return torch's message without its source location and advice."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.partition("] ")[2].partition(". This ")[0] if text.startswith("[") else text
