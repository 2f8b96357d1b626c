"""What tells data that has changed from data that has not."""

from __future__ import annotations

import hashlib
from typing import Protocol

from torch import Tensor


def digest_of(*tensors: Tensor) -> str:
    """SHA-256, in hexadecimal, of the bytes of CPU tensors, one after another."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


class StashedWindow(Protocol):
    """A source that holds all that it gives."""

    def contents(self) -> tuple[Tensor, ...]:
        """As it was read."""


def digest_of_parts(*parts: StashedWindow) -> str:
    """Of what sources hold, one after another."""
    return digest_of(*(tensor for part in parts for tensor in part.contents()))
