"""What tells data that has changed from data that has not."""

from __future__ import annotations

import hashlib

from torch import Tensor


def digest_of(*tensors: Tensor) -> str:
    """SHA-256, in hexadecimal, of the bytes of CPU tensors, one after another."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
