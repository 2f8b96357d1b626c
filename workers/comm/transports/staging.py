"""Copy frames between a GPU and CPU memory without blocking the GPU's computation.

Sent tensors are copied to pinned memory on a separate stream; the thread that encodes them waits for the copy. Received
tensors are in pinned memory, and the GPU copies them asynchronously on the stream that uses them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.comm.codec import new_tensor
from workers.comm.frame import Frame
from workers.comm.header import Spec
from workers.comm.roles import ON_DEVICE, role_of


@dataclass(frozen=True)
class PendingCopy:
    """A frame that is being copied to the CPU."""

    frame: Frame
    copied: torch.cuda.Event

    def wait(self) -> Frame:
        """Wait until the copy is complete; return the frame."""
        self.copied.synchronize()
        return self.frame


class Staging:
    """Copies the frames of one end of a link, for a stage on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start_copy(self, frame: Frame) -> PendingCopy:
        """Start to copy a frame to the CPU. The caller may change its tensors afterwards."""
        layout = torch.contiguous_format
        clones = {name: tensor.detach().clone(memory_format=layout) for name, tensor in frame.tensors.items()}
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # that stream computes the clones
        with torch.cuda.stream(self._stream):
            copies = {name: self._to_cpu(tensor) for name, tensor in clones.items()}
            copied = self._stream.record_event()
        return PendingCopy(replace(frame, tensors=copies), copied)

    def allocate(self, spec: Spec) -> Tensor:
        """Allocate a tensor to receive into: in pinned memory if it goes to the GPU."""
        if role_of(spec.name) not in ON_DEVICE:
            return new_tensor(spec)
        return torch.empty(spec.shape, dtype=spec.dtype, device="cpu", pin_memory=True)

    def on_take(self, frame: Frame) -> Frame:
        """Copy the tensors of `ON_DEVICE` of a received frame to the GPU, on the calling thread's stream."""
        for name, tensor in frame.tensors.items():
            if role_of(name) in ON_DEVICE:
                frame.tensors[name] = tensor.to(self._device, non_blocking=True)
        return frame

    def _to_cpu(self, tensor: Tensor) -> Tensor:
        if tensor.device != self._stream.device:
            return tensor.cpu()
        tensor.record_stream(self._stream)  # do not reuse its memory before the copy is done
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        return copy.copy_(tensor, non_blocking=True)


def staging_for(device: torch.device) -> Staging | None:
    """Return the copier for a stage on a GPU; None for one on the CPU."""
    return Staging(device) if device.type == "cuda" else None
