"""A pair of processes, or threads, that send each other tensors in memory by torch.distributed's gloo.

What is known of gloo, and decides how it is used here: a wait that runs out of time breaks the pair; a tensor, or the
`Work` that sends it, that is dropped early never arrives; a tensor leaves once the other side has made room for one.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store, Work  # type: ignore[attr-defined]

#: A wait without end.
FOREVER = timedelta(days=365)

_NEVER_SENT = 99  # a tag
_AT_ONCE = timedelta(milliseconds=1)


class UnderWay(Protocol):
    """What is being sent or received."""

    def wait(self, timeout: timedelta, /) -> object: ...


class GlooPair:
    """One side of a group of two. What is sent with a tag arrives in order where that tag is received."""

    def __init__(self, store: Store, name: str, rank: int, host: str, timeout_s: float) -> None:
        """Meet the other side in the store; `host` is this side's address. Raises RuntimeError if it does not come."""
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # the stubs call it Options, torch does not
        options._timeout = timedelta(seconds=timeout_s)
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        options._threads = 1  # for collective operations, of which there are none
        self._group: Any = ProcessGroupGloo(PrefixStore(name, store), rank, 2, options)
        self._peer = 1 - rank

    def send(self, tensor: Tensor, tag: int) -> Work:
        """Send contiguous CPU memory; both the tensor and the result must be kept until `wait` has returned."""
        work: Work = self._group.send([tensor], self._peer, tag)
        return work

    def recv(self, tensor: Tensor, tag: int) -> Work:
        """Make room for what is sent with this tag, at most as large as the tensor."""
        work: Work = self._group.recv([tensor], self._peer, tag)
        return work

    def end(self) -> None:
        """Break the pair: every wait at either side raises RuntimeError from now on."""
        with suppress(RuntimeError):
            self.recv(torch.empty(1, dtype=torch.uint8), _NEVER_SENT).wait(_AT_ONCE)


def wait(work: UnderWay) -> None:
    """Until it is done. Raises RuntimeError if the pair is broken."""
    work.wait(FOREVER)


def way_to(host: str, port: int) -> str:
    """This machine's own address, in figures, on the way to another; nothing is sent. Raises OSError for no way."""
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def why(error: Exception) -> str:
    """What torch says, without the place in its sources and without its advice."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.partition("] ")[2].partition(". This ")[0] if text.startswith("[") else text
