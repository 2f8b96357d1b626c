"""Compare frames and tensors bit for bit."""

import torch

from workers.comm.frame import Frame


def bits(tensor: torch.Tensor) -> list[int]:
    """Return the bytes of a tensor."""
    dense = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    return [] if not len(dense) else dense.view(torch.uint8).tolist()


def same(a: Frame, b: Frame) -> bool:
    """Return whether two frames are equal bit for bit, so that a NaN equals itself."""
    fields = [(f.kind, f.step, f.sequence, f.done_through, f.stage, f.handshake) for f in (a, b)]
    tensors_of = [[(n, t.dtype, t.shape, bits(t)) for n, t in f.tensors.items()] for f in (a, b)]
    return fields[0] == fields[1] and tensors_of[0] == tensors_of[1]
