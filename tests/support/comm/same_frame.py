"""Frames and tensors, compared bit for bit."""

import torch

from workers.comm.frame import Frame


def bits(tensor: torch.Tensor) -> list[int]:
    dense = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    return [] if not len(dense) else dense.view(torch.uint8).tolist()


def same(a: Frame, b: Frame) -> bool:
    """Bit for bit, so that a NaN equals itself."""
    plain = [(f.kind, f.step, f.sequence, f.done_through, f.stage, f.handshake) for f in (a, b)]
    described = [[(n, t.dtype, t.shape, bits(t)) for n, t in f.tensors.items()] for f in (a, b)]
    return plain[0] == plain[1] and described[0] == described[1]
