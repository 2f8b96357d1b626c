"""What tells files that have changed from files that have not, without reading a huge one to its end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dni.errors import DataError

#: Files that are larger than this, in bytes, are sampled.
WHOLE = 16 * 2**20

#: Of a sampled file: so many pieces, evenly spread from its first byte to its last, of so many bytes each.
PIECES, PIECE = 256, 2**16

#: Begins a digest that not every byte went into.
SAMPLED = "sampled:"


def digest_of_files(paths: Sequence[Path]) -> str:
    """SHA-256 in hexadecimal of files, one after another; it begins with "sampled:" if one is larger than 16 MiB.

    Of such a file its size goes in, as 8 bytes, and 256 pieces of 64 KiB: the first at its start, the last at its end,
    the others evenly between. A change between two pieces that leaves the size is therefore not noticed. Raises
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
    """Whether the file was sampled."""
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
