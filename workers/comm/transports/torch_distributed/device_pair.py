"""Send tensors from GPU to GPU, next to a gloo pair that carries everything else.

    stage k ── group 0 ──> stage k+1
            <── group 1 ──

Properties of NCCL that determine this design:

- Operations of a group run one after another, so two sides that send at once in one group would deadlock. Each
  direction has its own group.
- A receive occupies the GPU until its tensor arrives, so it starts only when the tensor is announced.
- A GPU must not wait for the peer while it has to compute what the peer waits for. Only threads wait, never the
  computing stream.
- An aborted operation looks finished.
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

from workers.comm.codec import new_tensor
from workers.comm.frame import Frame
from workers.comm.header import Spec
from workers.comm.roles import ON_DEVICE, role_of

_TAG = 0  # NCCL has no tags


class Group(Protocol):
    """The used part of torch's process groups, with two members. `abort` wakes the threads that wait."""

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> Work: ...

    def recv(self, tensors: list[Tensor], peer: int, tag: int, /) -> Work: ...

    def abort(self) -> None: ...


#: Makes one side of a group from a store of its own, the rank and the address of this side.
MakeGroup: TypeAlias = Callable[[Store, int, str], Group]


class Transfer:
    """A tensor in transfer. It holds the tensor's memory."""

    def __init__(self, work: Work, tensor: Tensor, stream: Any, ended: threading.Event) -> None:
        self._work, self._tensor, self._stream, self._ended = work, tensor, stream, ended

    def wait(self, timeout: timedelta) -> None:
        """Wait until the transfer is complete. Raises RuntimeError if it failed or the pair was ended."""
        with _use_stream(self._stream):  # torch makes this stream wait, too
            self._work.wait(timeout)
        if self._ended.is_set():
            raise RuntimeError("the pair was ended")


class DevicePair:
    """One side of two groups, one per direction. One thread may send while another receives."""

    def __init__(
        self, make: MakeGroup, store: Store, rank: int, host: str, device: torch.device, timeout_s: float
    ) -> None:
        """Make the groups with the peer, through the store. Raises RuntimeError if that fails."""
        self._device, self._peer = device, 1 - rank
        on_gpu = device.type == "cuda"
        self._outgoing: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._incoming: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._end_lock, self._ended = threading.Lock(), threading.Event()
        self._groups: list[Group] = []
        try:
            for sender in (0, 1):
                self._groups.append(make(PrefixStore(f"from {sender}", store), rank, host))
            self._warm_up(rank, timedelta(seconds=timeout_s))
        except RuntimeError:
            self.end()
            raise

    def send(self, tensor: Tensor) -> Transfer:
        """Send a tensor of any layout and device. The caller may change it afterwards."""
        own = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device).copy_(tensor.detach())
        if self._outgoing is not None:
            self._outgoing.wait_stream(torch.cuda.current_stream(self._device))  # that stream computes the copy
        with _use_stream(self._outgoing):
            work = self._groups[1 - self._peer].send([_as_bytes(own)], self._peer, _TAG)
        return Transfer(work, own, self._outgoing, self._ended)

    def recv(self, tensor: Tensor) -> Transfer:
        """Receive the next tensor into `tensor`, made by `allocate`."""
        with _use_stream(self._incoming):
            work = self._groups[self._peer].recv([_as_bytes(tensor)], self._peer, _TAG)
        return Transfer(work, tensor, self._incoming, self._ended)

    def allocate(self, spec: Spec) -> Tensor:
        """Allocate a tensor to receive into: on the device for those of `ON_DEVICE`."""
        if role_of(spec.name) not in ON_DEVICE:
            return new_tensor(spec)
        with _use_stream(self._incoming):
            return torch.empty(spec.shape, dtype=spec.dtype, device=self._device)

    def on_take(self, frame: Frame) -> Frame:
        """Make the tensors of a received frame safe to use on the calling thread's stream."""
        for name, tensor in frame.tensors.items():
            if role_of(name) in ON_DEVICE and tensor.is_cuda:  # until that stream is done, do not reuse it
                tensor.record_stream(torch.cuda.current_stream(self._device))
        return frame

    def end(self) -> None:
        """Break the pair: every wait on this side raises RuntimeError. Idempotent."""
        with self._end_lock:
            if self._ended.is_set():
                return
            self._ended.set()
        for group in self._groups:
            with suppress(RuntimeError):
                group.abort()

    def _warm_up(self, rank: int, timeout: timedelta) -> None:
        """Send a byte each way, so that connections exist and kernels are loaded before training depends on them."""
        byte = torch.zeros(1, dtype=torch.uint8, device=self._device)
        for sender in (0, 1):
            (self.send(byte) if sender == rank else self.recv(byte)).wait(timeout)


def _use_stream(stream: Any) -> AbstractContextManager[object]:
    """Make this stream the current one; None: do nothing."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def _as_bytes(tensor: Tensor) -> Tensor:
    """View a contiguous tensor as bytes; NCCL lacks some element types."""
    return tensor.reshape(-1).view(torch.uint8)
