"""Files of token ids, of which only the requested parts are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dni.errors import DataError

#: Suffixes of the files, that of raw ones first.
SUFFIXES = (".bin", ".npy")

#: Number of tokens at the start of a raw file that are tested for a wider type, and the least number to test.
_HEAD, _LEAST = 4096, 64


class TokenFile:
    """A memory-mapped file of token ids.

    Args:
        path: NAME.bin, little-endian ids without a header; or NAME.npy, a one-dimensional array of integers.
        dtype: element type of a .bin file, "uint16" or "uint32".
        vocabulary: V; ids are from 0 to V - 1.

    Raise DataError for a file that cannot be read or has another format.
    """

    def __init__(self, path: Path, dtype: str, vocabulary: int) -> None:
        self.path, self.vocabulary = path, vocabulary
        self._ids = _mapped_npy(path) if path.suffix == ".npy" else _mapped_raw(path, dtype)

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, starts: list[int], count: int) -> Tensor:
        """Return `count` ids from each of B starts, (B, count) int64.

        Raise DataError, with the file and the position, for an id outside the vocabulary.
        """
        found = np.stack([self._ids[start : start + count] for start in starts]).astype(np.int64)
        outside = (found < 0) | (found >= self.vocabulary)
        if outside.any():
            row, column = (int(one) for one in np.argwhere(outside)[0])
            raise DataError(
                f"{self.path}: the token at position {starts[row] + column} is {found[row, column]}, outside 0 to "
                f"{self.vocabulary - 1}: set data.vocabulary to the number of different tokens, or data.dtype to the "
                "type that the file was written with"
            )
        return torch.from_numpy(found)


def _mapped_raw(path: Path, dtype: str) -> Any:
    width, size = np.dtype(dtype).itemsize, _size(path)
    if size % width:
        raise DataError(
            f"{path} has {size} bytes, not a multiple of the {width} of a token: it is truncated, or not {dtype} (set "
            "data.dtype to uint16 or uint32)"
        )
    if not size:
        raise DataError(f"{path} is empty: write token ids into it")
    found = np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
    head = found[:_HEAD]
    if width == 2 and len(head) >= _LEAST and head[::2].any() and not head[1::2].any():
        raise DataError(f"every second token of {path} is 0, as if uint32 were read as uint16: set data.dtype=uint32")
    return found


def _mapped_npy(path: Path) -> Any:
    _size(path)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"cannot read {path}: {error}; write a one-dimensional array of integers with numpy.save"
        ) from error
    if found.ndim != 1 or found.dtype.kind not in "ui":
        raise DataError(
            f"{path} is {found.dtype} of shape {found.shape}: write a one-dimensional array of integers with numpy.save"
        )
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
