"""Sequential MNIST: read an image pixel by pixel, and classify it after the last pixel (Le et al. 2015)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dni.data.base import Data, DataContext, FromFiles, Streamable, in_passes
from dni.data.digest import digest_of_parts
from dni.data.idx import read_mnist
from dni.data.source import EpochSampler, PassSource, refuse_future_labels
from dni.data.window import Window
from dni.errors import ConfigError, DataError
from dni.types import IGNORED

Part = Literal["train", "valid", "test"]

_SIDE = 28
VALID = 5_000  #: the last images of the training files


class PixelSource(PassSource):
    """MNIST's images as B streams of sequences, row by row, in windows of T pixels, with one label at the last pixel.

    Inputs are grey levels, from 0 (background) to `levels` - 1. Sequences are padded to whole windows with 0 and
    IGNORED labels. A pass takes every image of its part at most once, in whole batches only. Training images are
    shuffled with (seed, pass), the others keep their order.

    Args:
        folder: folder with the four IDX files of MNIST, gzipped or not: `train-images-idx3-ubyte.gz` and so on.
        batch: B, sequences at once.
        window: T, time steps of a window.
        future_labels: L, labels after a window.
        part: `train`, `valid` (the last 5,000 images of the training files) or `test`.
        seed: seed of the order, not negative.
        side: 28, or 14 or 7, where a pixel is the mean of 2x2 or 4x4, and a sequence has 196 or 49 steps.
        levels: number of grey levels, from 2 to 256.
        streaming: labels after the window are not known.

    Raise ConfigError for other settings, and DataError for files that cannot be read or fewer images than a batch.
    """

    symbols = 10  #: number of digits

    def __init__(
        self,
        folder: str | Path,
        batch: int,
        window: int,
        future_labels: int = 0,
        *,
        part: Part = "train",
        seed: int = 0,
        side: int = 28,
        levels: int = 16,
        streaming: bool = False,
    ) -> None:
        if batch < 1 or window < 1 or future_labels < 0 or seed < 0:
            raise ConfigError(
                f"need batch {batch} >= 1, window {window} >= 1, future_labels {future_labels}, seed {seed} >= 0"
            )
        if side not in (28, 14, 7) or not 2 <= levels <= 256:
            raise ConfigError(f"side {side} must be 28, 14 or 7, and {levels} grey levels between 2 and 256")
        refuse_future_labels(streaming, future_labels)
        self.batch, self.window_size, self.future_labels = batch, window, future_labels
        self.streaming = streaming
        self.input_symbols, self.length = levels, side * side
        images, self._labels = load_mnist(Path(folder).expanduser(), part)
        if len(images) < batch:
            raise DataError(f"{len(images)} {part} images are fewer than one batch of {batch}: use a smaller batch")
        self._pixels = quantise(images, side, levels)  # (images, length) uint8
        self._windows = math.ceil(self.length / window)  # windows per sequence
        self.windows_per_pass = len(images) // batch * self._windows
        self._order = EpochSampler(len(images), seed=seed, shuffle=part == "train")

    def window(self, n: int) -> Window:
        """Return window n = 0, 1, ...; from `windows_per_pass` on, those of the next passes."""
        number, within = divmod(n, self.windows_per_pass)
        group, position = divmod(within, self._windows)
        rows = self._order.of(number)[group * self.batch : (group + 1) * self.batch]
        start = position * self.window_size
        known = self._pixels[rows, start : start + self.window_size]
        inputs = torch.zeros(self.batch, self.window_size, dtype=torch.int64)
        inputs[:, : known.shape[1]] = known
        labels = torch.full((self.batch, self.window_size + self.future_labels), IGNORED)
        last = self.length - 1 - start
        if last < labels.shape[1]:
            labels[:, last] = self._labels[rows].long()
        reset, done = (torch.full((self.batch,), here) for here in (position == 0, position == self._windows - 1))
        return Window(inputs, labels, reset, done)

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return the images (n, side * side) and labels (n,) of this part, uint8."""
        return self._pixels, self._labels


@dataclass
class SequentialMnist(FromFiles, Streamable):
    """Sequential MNIST: read a digit pixel by pixel, and classify it after the last pixel."""

    side: int = 28  # [pixels] height and width of the image: 28, 14 or 7

    name: ClassVar[str] = "seqmnist"

    @property
    def whole_length(self) -> int | None:
        return self.side**2

    @property
    def label_delay(self) -> int:
        return self.side**2

    def open(self, context: DataContext) -> Data:
        def source(part: Part) -> PixelSource:
            return PixelSource(
                self.path or "mnist", self.batch, context.window, context.future_labels,
                part=part, seed=context.seed, side=self.side, streaming=self.streaming,
            )  # fmt: skip

        train, valid = source("train"), source("valid")
        digest = partial(digest_of_parts, train, valid)
        return in_passes(self.name, train, valid, digest=digest, test=partial(source, "test"))


def load_mnist(folder: Path, part: Part) -> tuple[Tensor, Tensor]:
    """Return images (n, 28, 28) and labels (n,) of a part, uint8. Raise DataError if a file cannot be read."""
    images, labels = read_mnist(folder, "t10k" if part == "test" else "train")
    cut = {"train": slice(0, -VALID), "valid": slice(-VALID, None), "test": slice(None)}[part]
    return images[cut], labels[cut].clone()  # a view would keep all labels in memory


def quantise(images: Tensor, side: int, levels: int) -> Tensor:
    """Reduce (n, 28, 28) uint8 to (n, side * side) uint8 below `levels`: the mean of each block, rounded down."""
    block = _SIDE // side
    parts = []
    for start in range(0, len(images), 1024):  # in parts: all images as int32 would take hundreds of megabytes
        sums = images[start : start + 1024].view(-1, side, block, side, block).sum(dim=(2, 4), dtype=torch.int32)
        parts.append((sums * levels // (256 * block * block)).to(torch.uint8).flatten(1))
    return torch.cat(parts)
