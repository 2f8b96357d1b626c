"""Tensors from one stage's GPU to the next one's, beside a link that carries all else.

    stage k ── group 0 ──> stage k+1
            <── group 1 ──

What is known of NCCL, and decides how it is used here: operations of a group run one after another, so that both sides
sending at once in one group would wait for ever, and each direction has its own; a receive occupies the GPU until its
tensor has come, so it begins when that is announced; a GPU that waits for the other side must not keep from computing
what that side waits for, so only threads wait, never the stream that computes. An aborted operation looks finished.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.distributed import PrefixStore, Store, Work  # type: ignore[attr-defined]  # it has them

from workers.comm.codec import room_for
from workers.comm.frame import Frame
from workers.comm.header import Spec
from workers.comm.roles import ON_DEVICE, role_of

_TAG = 0  # NCCL has none


class Group(Protocol):
    """What is used of a group of two of torch's. Whoever waits when it is aborted is woken."""

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> Work: ...

    def recv(self, tensors: list[Tensor], peer: int, tag: int, /) -> Work: ...

    def abort(self) -> None: ...


#: Makes one side of a group, given a store of its own, the rank and this side's address.
MakeGroup: TypeAlias = Callable[[Store, int, str], Group]


class Transfer:
    """A tensor on its way, kept until then."""

    def __init__(self, work: Work, tensor: Tensor, stream: Any, ended: threading.Event) -> None:
        self._work, self._tensor, self._stream, self._ended = work, tensor, stream, ended

    def wait(self, timeout: timedelta) -> None:
        """Until it is all there. Raises RuntimeError if it failed, or the pair was ended."""
        with _on(self._stream):  # which torch makes wait as well
            self._work.wait(timeout)
        if self._ended.is_set():
            raise RuntimeError("the pair was ended")


class DevicePair:
    """One side of two groups, one for each direction. One thread at a time sends and one receives."""

    def __init__(
        self, make: MakeGroup, store: Store, rank: int, host: str, device: torch.device, timeout_s: float
    ) -> None:
        """Meet the other side in the store. Raises RuntimeError if that fails."""
        self._device, self._peer = device, 1 - rank
        on_gpu = device.type == "cuda"
        self._outgoing: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._incoming: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._ending, self._ended = threading.Lock(), threading.Event()
        self._groups: list[Group] = []
        try:
            for sender in (0, 1):
                self._groups.append(make(PrefixStore(f"from {sender}", store), rank, host))
            self._try_out(rank, timedelta(seconds=timeout_s))
        except RuntimeError:
            self.end()
            raise

    def send(self, tensor: Tensor) -> Transfer:
        """Send a tensor of any layout and device; it may be changed as soon as this returns."""
        own = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device).copy_(tensor.detach())
        if self._outgoing is not None:
            self._outgoing.wait_stream(torch.cuda.current_stream(self._device))  # which computes and copies it
        with _on(self._outgoing):
            work = self._groups[1 - self._peer].send([_flat(own)], self._peer, _TAG)
        return Transfer(work, own, self._outgoing, self._ended)

    def recv(self, tensor: Tensor) -> Transfer:
        """Receive the next tensor into one of `room`."""
        with _on(self._incoming):
            work = self._groups[self._peer].recv([_flat(tensor)], self._peer, _TAG)
        return Transfer(work, tensor, self._incoming, self._ended)

    def room(self, spec: Spec) -> Tensor:
        """Where a tensor is received: on the GPU, if it is wanted there."""
        if role_of(spec.name) not in ON_DEVICE:
            return room_for(spec)
        with _on(self._incoming):
            return torch.empty(spec.shape, dtype=spec.dtype, device=self._device)

    def arrive(self, frame: Frame) -> Frame:
        """A frame whose tensors have come, for the calling thread's stream."""
        for name in ON_DEVICE:
            if name in frame.tensors and frame.tensors[name].is_cuda:  # not to be used again before that stream has
                frame.tensors[name].record_stream(torch.cuda.current_stream(self._device))
        return frame

    def end(self) -> None:
        """Break the pair: every wait on this side raises RuntimeError from now on. Idempotent."""
        with self._ending:
            if self._ended.is_set():
                return
            self._ended.set()
        for group in self._groups:
            with suppress(RuntimeError):
                group.abort()

    def _try_out(self, rank: int, timeout: timedelta) -> None:
        """A byte each way: connections are made, and kernels loaded, before anything depends on their progress."""
        byte = torch.zeros(1, dtype=torch.uint8, device=self._device)
        for sender in (0, 1):
            (self.send(byte) if sender == rank else self.recv(byte)).wait(timeout)


def _on(stream: Any) -> AbstractContextManager[object]:
    """Make this stream the current one, if there is one."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def _flat(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor; NCCL does not know every element type."""
    return tensor.reshape(-1).view(torch.uint8)
