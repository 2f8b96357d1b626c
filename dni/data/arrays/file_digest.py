"""Digests that detect changed files without reading all of a huge one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dni.errors import DataError

#: [bytes] Larger files are sampled.
WHOLE = 16 * 2**20

#: Number of pieces of a sampled file, evenly spread from its first byte to its last, and bytes of each.
PIECES, PIECE = 256, 2**16

#: Prefix of a digest that does not cover every byte.
SAMPLED = "sampled:"


def digest_of_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of several files in hexadecimal, with the prefix "sampled:" if one is larger than 16 MiB.

    The digest covers the size of such a file, as 8 bytes, and 256 pieces of 64 KiB: the first at its start, the last at
    its end, the others evenly between. It does not detect a change between two pieces that keeps the size. Raise
    DataError if a file cannot be read.
    """
    digest, sampled = hashlib.sha256(), False
    for path in paths:
        try:
            sampled = _add(digest, path) or sampled
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
    return (SAMPLED if sampled else "") + digest.hexdigest()


def _add(digest: hashlib._Hash, path: Path) -> bool:
    """Add a file to the digest; return whether it was sampled."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
            return False
        digest.update(size.to_bytes(8, "little"))
        for number in range(PIECES):
            file.seek(number * (size - PIECE) // (PIECES - 1))
            digest.update(file.read(PIECE))
    return True
