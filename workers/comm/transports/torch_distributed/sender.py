"""What is being sent by a pair, kept until it has left."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workers.comm.transports.torch_distributed.device_pair import DevicePair
from workers.comm.transports.torch_distributed.gloo import GlooPair, UnderWay, wait
from workers.system.background import background

MESSAGES, TENSORS = 1, 2  # tags

_MOMENT_S = 1.0  # for the thread here, which must run first


class _Sending(NamedTuple):
    """What must not be dropped before it has left."""

    tensors: list[Tensor]
    works: list[UnderWay]
    is_frame: bool


class Sender:
    """Hands frames and control bytes to a pair, in order, at most `limit` frames at once."""

    def __init__(
        self, pair: GlooPair, limit: int, lose: Callable[[Exception], None], device_pair: DevicePair | None = None
    ) -> None:
        """`lose` is told why the pair, or the one beside it, is broken."""
        self._pair, self._device_pair, self._lose = pair, device_pair, lose
        self._posting = threading.Lock()
        self._free = threading.Semaphore(limit)
        self._keeping: queue.SimpleQueue[_Sending | None] = queue.SimpleQueue()
        self.thread = background("dni-keep", self._keep, lose)

    def may_send(self) -> bool:
        """Take the place of one frame, if there is one or will be in a moment."""
        return self._free.acquire(timeout=_MOMENT_S)

    def frame(self, message: Tensor, apart: list[Tensor], on_device: Sequence[Tensor] = ()) -> bool:
        """Send a message and the tensors that belong to it, whose memory, but for `on_device`, must not be changed.

        These are copied, and go by the device pair. Returns whether the pair has taken all of it.
        """
        return self._post(message, apart, on_device, is_frame=True)

    def control(self, byte: int, more: bytes = b"") -> None:
        """Send a message of one byte, and more."""
        self._post(torch.tensor([byte, *more], dtype=torch.uint8), [], (), is_frame=False)

    def finish(self) -> None:
        """End the thread once all has left, or the pair is broken."""
        self._keeping.put(None)

    def _post(self, message: Tensor, apart: list[Tensor], on_device: Sequence[Tensor], is_frame: bool) -> bool:
        with self._posting:
            try:
                works: list[UnderWay] = [self._pair.send(message, MESSAGES)]
                works += [self._pair.send(tensor, TENSORS) for tensor in apart]
                if self._device_pair is not None:
                    works += [self._device_pair.send(tensor) for tensor in on_device]
            except RuntimeError as error:
                self._lose(error)
                return False
            self._keeping.put(_Sending([message, *apart], works, is_frame))
            return True

    def _keep(self) -> None:
        try:
            for sending in iter(self._keeping.get, None):
                for work in sending.works:
                    wait(work)
                if sending.is_frame:
                    self._free.release()
        except RuntimeError as error:
            self._lose(error)
