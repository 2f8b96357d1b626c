"""Between a GPU and the CPU's memory, without holding up what the GPU computes.

What is sent is copied on a stream of its own into pinned memory, and the thread that encodes it waits for that copy.
What is received lies in pinned memory, from where the GPU fetches it in the order of its work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.comm.codec import room_for
from workers.comm.frame import Frame
from workers.comm.header import Spec
from workers.comm.roles import ON_DEVICE, role_of


@dataclass(frozen=True)
class Leaving:
    """A frame on its way to the CPU."""

    frame: Frame
    copied: torch.cuda.Event

    def wait(self) -> Frame:
        """The frame, once all of it is there."""
        self.copied.synchronize()
        return self.frame


class Staging:
    """The copies of one end of a link, for a stage on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def leave(self, frame: Frame) -> Leaving:
        """Begin to copy a frame; its tensors may be changed as soon as this returns."""
        layout = torch.contiguous_format
        own = {name: tensor.detach().clone(memory_format=layout) for name, tensor in frame.tensors.items()}
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which computes the tensors and clones them
        with torch.cuda.stream(self._stream):
            there = {name: self._fetch(tensor) for name, tensor in own.items()}
            copied = self._stream.record_event()
        return Leaving(replace(frame, tensors=there), copied)

    def room(self, spec: Spec) -> Tensor:
        """Where a tensor is received: pinned memory, if the GPU will want it."""
        if role_of(spec.name) not in ON_DEVICE:
            return room_for(spec)
        return torch.empty(spec.shape, dtype=spec.dtype, device="cpu", pin_memory=True)

    def arrive(self, frame: Frame) -> Frame:
        """A received frame, with what stages compute with on the GPU, for the calling thread's stream."""
        for name, tensor in frame.tensors.items():
            if role_of(name) in ON_DEVICE:
                frame.tensors[name] = tensor.to(self._device, non_blocking=True)
        return frame

    def _fetch(self, tensor: Tensor) -> Tensor:
        if tensor.device != self._stream.device:
            return tensor.cpu()
        tensor.record_stream(self._stream)  # its memory is not used again before the copy
        there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        return there.copy_(tensor, non_blocking=True)


def staging_for(device: torch.device) -> Staging | None:
    """None for a stage on the CPU."""
    return Staging(device) if device.type == "cuda" else None
