"""Digests, by which a resumed run recognises its data."""

from __future__ import annotations

import hashlib
from typing import Protocol

from torch import Tensor


def digest_of(*tensors: Tensor) -> str:
    """Return the SHA-256, in hexadecimal, of the concatenated bytes of CPU tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


class InMemory(Protocol):
    """A source that keeps all its data in memory."""

    def contents(self) -> tuple[Tensor, ...]:
        """Return the data as read."""


def digest_of_parts(*parts: InMemory) -> str:
    """Return the SHA-256 of the contents of sources, one after another."""
    return digest_of(*(tensor for part in parts for tensor in part.contents()))
