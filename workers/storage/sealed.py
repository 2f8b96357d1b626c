"""JSON files with a digest of their own content, and files that are on the disk before they get their name.

    {"sha256": "<64 hexadecimal digits>", "format": 2, ...}

The digest covers every byte after it, so any changed bit of the file is detected.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from workers.system.errors import about

_OPENING = b'{"sha256": "'
_DIGITS = 64
_CHUNK = 2**20


class Unsealed(ValueError):
    """Raised for a JSON file without a digest."""


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write `content` (not empty) to `path` atomically, and wait until it is on the disk. Raises OSError."""
    rest = f'", {json.dumps(content)[1:]}'.encode()
    temporary = path.with_name(f"{path.name}.tmp")
    with about(temporary):
        temporary.write_bytes(_OPENING + hashlib.sha256(rest).hexdigest().encode() + rest)
    put_in_place(temporary, path)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a file of `write_sealed`. Raises Unsealed without a digest, ValueError if a byte has changed, OSError."""
    raw = path.read_bytes()
    if not raw.startswith(_OPENING):
        raise Unsealed("it does not begin with a digest")
    start = len(_OPENING) + _DIGITS
    if hashlib.sha256(raw[start:]).hexdigest().encode() != raw[len(_OPENING) : start]:
        raise ValueError("its content does not match its digest")
    content = json.loads(raw)
    del content["sha256"]
    return dict(content)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def put_in_place(temporary: Path, path: Path) -> None:
    """Wait until a file's content is on the disk, rename the file, and wait until its name is too. Raises OSError."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with about(path):
            os.fsync(descriptor)
    except OSError as error:
        if not (error.errno == errno.EINVAL and path.is_dir()):  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)
