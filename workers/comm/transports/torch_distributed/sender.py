"""Send messages and tensors, and keep their memory until they have been sent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workers.comm.transports.torch_distributed.device_pair import DevicePair
from workers.comm.transports.torch_distributed.gloo import GlooPair, Waitable, wait
from workers.system.background import background

MESSAGES, TENSORS = 1, 2  # tags

_SLOT_WAIT_S = 1.0  # wait for the thread to free a slot that is about to become free


class _InFlight(NamedTuple):
    """Tensors and operations that must be kept until they are sent."""

    tensors: list[Tensor]
    works: list[Waitable]
    is_frame: bool


class Sender:
    """Sends frames and control messages over a pair, in order, with at most `limit` unsent frames."""

    def __init__(
        self, pair: GlooPair, limit: int, on_lost: Callable[[Exception], None], device_pair: DevicePair | None = None
    ) -> None:
        """`on_lost` is called with the error if the pair or the device pair breaks."""
        self._pair, self._device_pair, self._on_lost = pair, device_pair, on_lost
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(limit)
        self._in_flight: queue.SimpleQueue[_InFlight | None] = queue.SimpleQueue()
        self.thread = background("dni-send", self._wait_until_sent, on_lost)

    def acquire_slot(self) -> bool:
        """Reserve the slot of one frame; return False if none becomes free within a second."""
        return self._slots.acquire(timeout=_SLOT_WAIT_S)

    def frame(self, message: Tensor, apart: list[Tensor], on_device: Sequence[Tensor] = ()) -> bool:
        """Send a message and its tensors; the caller must not change their memory. Return False if the pair is broken.

        Tensors of `on_device` are copied and sent by the device pair.
        """
        return self._enqueue(message, apart, on_device, is_frame=True)

    def control(self, byte: int, data: bytes = b"") -> None:
        """Send a control message: one byte, then `data`."""
        self._enqueue(torch.tensor([byte, *data], dtype=torch.uint8), [], (), is_frame=False)

    def finish(self) -> None:
        """End the thread after everything is sent or the pair is broken."""
        self._in_flight.put(None)

    def _enqueue(self, message: Tensor, apart: list[Tensor], on_device: Sequence[Tensor], is_frame: bool) -> bool:
        with self._lock:
            try:
                works: list[Waitable] = [self._pair.send(message, MESSAGES)]
                works += [self._pair.send(tensor, TENSORS) for tensor in apart]
                if self._device_pair is not None:
                    works += [self._device_pair.send(tensor) for tensor in on_device]
            except RuntimeError as error:
                self._on_lost(error)
                return False
            self._in_flight.put(_InFlight([message, *apart], works, is_frame))
            return True

    def _wait_until_sent(self) -> None:
        try:
            for item in iter(self._in_flight.get, None):
                for work in item.works:
                    wait(work)
                if item.is_frame:
                    self._slots.release()
        except RuntimeError as error:
            self._on_lost(error)
