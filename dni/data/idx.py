"""MNIST's files in IDX format (LeCun et al. 1998), gzipped or not, under their usual names."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from dni.errors import DataError

Name = Literal["train", "t10k"]
Kind = Literal["images", "labels"]

_SIDE = 28
_MAGIC = {"images": 2051, "labels": 2049}
_DIMENSIONS = {"images": "idx3", "labels": "idx1"}
_GZIP = b"\x1f\x8b"


def read_mnist(folder: Path, name: Name) -> tuple[Tensor, Tensor]:
    """Return all images (n, 28, 28) and labels (n,) of two files, uint8. Raise DataError if one cannot be read."""
    images = _read(_find(folder, name, "images"), "images", (_SIDE, _SIDE))
    labels = _read(_find(folder, name, "labels"), "labels", ())
    if len(images) != len(labels):
        raise DataError(f"{folder} holds {len(images)} {name} images, but {len(labels)} labels: download both again")
    if (labels > 9).any():
        raise DataError(f"{folder} holds a {name} label {labels.max()}: MNIST has the digits 0 to 9")
    return images, labels


def _find(folder: Path, name: Name, kind: Kind) -> Path:
    """Return the first that exists of `train-images-idx3-ubyte.gz`, `train-images-idx3-ubyte`, and both with a dot."""
    stems = [f"{name}-{kind}{mark}{_DIMENSIONS[kind]}-ubyte" for mark in "-."]
    files = [folder / f"{stem}{end}" for stem in stems for end in (".gz", "")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise DataError(
            f"no {stems[0]}.gz in {folder}, nor {files[1].name}, {files[2].name} or {files[3].name}: give a folder "
            "with MNIST's four files, gzipped or not"
        )
    return found


def _read(file: Path, kind: Kind, shape: tuple[int, ...]) -> Tensor:
    """Read an IDX file: magic number, number of items, their dimensions (all big-endian uint32), then bytes."""
    layout = f">{2 + len(shape)}I"
    try:
        with file.open("rb") as raw, _unpacked(raw) as stream:
            head = stream.read(struct.calcsize(layout))
            if len(head) < struct.calcsize(layout):
                raise EOFError
            magic, count, *dimensions = struct.unpack(layout, head)
            if magic != _MAGIC[kind] or tuple(dimensions) != shape:
                raise DataError(f"{file} does not hold MNIST's {kind}: its header is {magic} {count} {dimensions}")
            size = count * math.prod(shape)
            body = stream.read(size)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{file} is not a complete file of {kind}: download it again") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    if len(body) < size:
        raise DataError(f"{file} should have {count} {kind}, {size} bytes, but has {len(body)}: download it again")
    return torch.from_numpy(np.frombuffer(body, dtype=np.uint8).copy()).view(count, *shape)


def _unpacked(raw: BinaryIO) -> BinaryIO:
    """Unpack a gzipped file, recognised by its first bytes: browsers unpack files but keep the name `.gz`."""
    packed = raw.read(len(_GZIP)) == _GZIP
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[return-value]  # has the same methods
