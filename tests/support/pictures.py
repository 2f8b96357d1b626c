"""Write small synthetic versions of MNIST and CIFAR-10 in their file formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dni.data.sequential_mnist import VALID
from tests.dni.data.test_sequential_mnist import write


def digits(folder: Path, train: int = 64, test: int = 20) -> Path:
    """Write an MNIST in which class k is noise plus bright columns at k, so a linear model separates the classes."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, count in (("train", train + VALID), ("t10k", test)):
        labels = draw.integers(0, 10, count, dtype=np.uint8)
        images = draw.integers(0, 64, (count, 28, 28), dtype=np.uint8)
        for shift in range(2):
            images[np.arange(count), :, 2 * labels + 4 + shift] += 150
        write(folder, name, images, labels)
    return folder


def pictures(folder: Path, train: int = 64, test: int = 20, *, bright: int = 0) -> Path:
    """Write a CIFAR-10 of noise: red below 100, green below 200, blue 7; the first two red pixels are the index.

    Three red rows of class k, from 3 k on, are brighter by `bright`, so that the classes can be learned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    for name, count in (("train", train + VALID), ("test", test)):
        records = np.full((count, 3073), 7, dtype=np.uint8)
        records[:, 0] = draw.integers(0, 10, count)
        red = draw.integers(0, 100, (count, 32, 32))
        for shift in range(3):
            red[np.arange(count), 3 * records[:, 0].astype(int) + shift] += bright
        records[:, 1:1025] = red.reshape(count, 1024)
        records[:, 1025:2049] = draw.integers(0, 200, (count, 1024))
        records[:, 1], records[:, 2] = np.arange(count) % 256, np.arange(count) // 256
        if name == "test":
            records.tofile(folder / "test_batch.bin")
            continue
        for number, part in enumerate(np.array_split(records, 5)):
            part.tofile(folder / f"data_batch_{number + 1}.bin")
    return folder
