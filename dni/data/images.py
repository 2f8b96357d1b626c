"""Labelled images in batches: MNIST (LeCun et al. 1998) and CIFAR-10 (Krizhevsky 2009)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dni.data.augmentation import Augmentation
from dni.data.base import Data, DataContext, FromFiles, in_passes
from dni.data.digest import digest_of_parts
from dni.data.idx import read_mnist
from dni.data.sequential_mnist import VALID
from dni.data.source import EpochSampler, PassSource
from dni.data.utf8 import read_utf8
from dni.data.window import Window
from dni.errors import ConfigError, DataError
from dni.ranges import one_or_more, zero_or_more
from dni.types import Inputs

Name = Literal["mnist", "cifar10"]

_CIFAR10 = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # bytes of a CIFAR-10 record: the label, then the red, green and blue plane, row by row
_LABEL_FILE = "label.txt"
_CHUNK = 1024  # images summed at once, as int64, which takes eight times their memory


class Images(NamedTuple):
    """Images with their labels."""

    pixels: Tensor  #: (n, C, H, W) uint8
    labels: Tensor  #: (n,) uint8


class Scale(NamedTuple):
    """Normalisation (p - mean) / deviation of pixels p, to mean 0 and variance 1 in every channel."""

    mean: Tensor  #: (C, 1, 1) float32, in levels of 0 to 255
    deviation: Tensor  #: (C, 1, 1) float32; 1 where a channel is constant

    @classmethod
    def of(cls, pixels: Tensor) -> Scale:
        """Compute the exact mean and deviation of every channel of (n, C, H, W) uint8."""
        each, sums = pixels[:, 0].numel(), torch.zeros(2, pixels.shape[1], dtype=torch.int64)
        for chunk in torch.split(pixels, _CHUNK):
            levels = chunk.to(torch.int64)
            sums += torch.stack([levels.sum((0, 2, 3)), levels.square().sum((0, 2, 3))])
        totals = list(zip(*sums.tolist(), strict=True))  # Python's integers: the products below exceed 64 bits
        mean = torch.tensor([total / each for total, _ in totals])
        variance = torch.tensor([(each * squares - total * total) / each**2 for total, squares in totals])
        deviation = torch.where(variance > 0, variance.sqrt(), 1.0)
        return cls(mean.view(-1, 1, 1), deviation.view(-1, 1, 1))


class ImageSource(PassSource):
    """Images in batches: inputs (B, C, H, W) float32, normalised, and labels (B,) int64.

    With `shuffle`, as in training, a pass takes every image at most once, in whole batches only, in an order drawn from
    (seed, pass). Otherwise a pass takes every image exactly once, in order, and its last batch may be smaller. The
    source keeps pixels as uint8.

    Args:
        images: images of one part; shared, not copied.
        batch: B.
        scale: the normalisation, from the training images.
        shuffle: whether to shuffle each pass.
        seed: seed of the order and the noise, not negative.
        noise: deviation of the Gaussian noise added to the normalised inputs, drawn from (seed, batch).
        augment: changes pixels (B, C, H, W) of batch n, before they are normalised.

    Raise ConfigError for other settings, and DataError for too few images.
    """

    symbols = 10  #: number of classes

    def __init__(
        self,
        images: Images,
        batch: int,
        scale: Scale,
        *,
        shuffle: bool = False,
        seed: int = 0,
        noise: float = 0.0,
        augment: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        if batch < 1 or seed < 0:
            raise ConfigError(f"need batch {batch} >= 1 and seed {seed} >= 0")
        count = len(images.pixels)
        if count < (batch if shuffle else 1):
            raise DataError(f"{count} images are fewer than one batch of {batch}: use a smaller batch")
        self.batch, self._images, self._scale = batch, images, scale
        self.windows_per_pass = count // batch if shuffle else -(-count // batch)
        self._order, self._seed, self._noise = EpochSampler(count, seed=seed, shuffle=shuffle), seed, noise
        self._augment = augment

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image."""
        return tuple(self._images.pixels.shape[1:])

    def window(self, n: int) -> Window:
        """Return batch n = 0, 1, ...; from `windows_per_pass` on, those of the next passes."""
        number, group = divmod(n, self.windows_per_pass)
        rows = self._order.of(number)[group * self.batch : (group + 1) * self.batch]
        pixels = self._images.pixels[rows]
        pixels = pixels if self._augment is None else self._augment(pixels, n)
        inputs = (pixels.float() - self._scale.mean) / self._scale.deviation
        if self._noise:
            inputs += self._noise * self._standard_normal(n, inputs.shape)
        each = torch.ones(len(rows), dtype=torch.bool)
        return Window(inputs, self._images.labels[rows].long(), each, each)

    def _standard_normal(self, n: int, shape: Sequence[int]) -> Tensor:
        """Draw from (seed, batch). The 1 in the key keeps it apart from the order's key, (seed, pass)."""
        return torch.from_numpy(np.random.default_rng((self._seed, n, 1)).standard_normal(tuple(shape), np.float32))

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return the images (n, C, H, W) and labels (n,) of this part, uint8, as read."""
        return self._images


@dataclass
class ImageSet(FromFiles):
    """Base class of labelled images in batches. `path` is their folder; default: a folder with the data's name."""

    window: int = one_or_more(1)
    sequence: int | None = one_or_more(None)
    label: str | None = None  # name of the data in results; null: the first line of a label.txt in its folder, else
    # mnist or cifar10
    noise: float = zero_or_more(0.0)  # [deviations] Gaussian noise on the normalised images, in training only
    flip: bool = False  # mirror every second training image, left to right, at random
    crop_padding: int = zero_or_more(0)  # [pixels] of black around a training image, of which a random crop has the
    # size of the image; 4 is usual for CIFAR-10 (He et al. 2016)

    gives: ClassVar[Inputs] = Inputs.images
    sequences: ClassVar[bool] = False
    kind: ClassVar[Name]  #: the format of the files

    def open(self, context: DataContext) -> Data:
        kind, folder = self.kind, Path(self.path or self.kind).expanduser()
        for_training, for_validation = training_images(kind, folder)
        scale = Scale.of(for_training.pixels)
        augment = Augmentation(context.seed, self.flip, self.crop_padding) if self.flip or self.crop_padding else None
        train = ImageSource(
            for_training, self.batch, scale, shuffle=True, seed=context.seed, noise=self.noise, augment=augment
        )
        valid = ImageSource(for_validation, self.batch, scale)
        return in_passes(
            self.label or label_of(kind, folder),
            train,
            valid,
            digest=partial(digest_of_parts, train, valid),
            test=lambda: ImageSource(held_out_images(kind, folder), self.batch, scale),
            input_shape=train.shape,
        )


@dataclass
class Mnist(ImageSet):
    """MNIST (LeCun et al. 1998), from its four IDX files, gzipped or not."""

    name: ClassVar[str] = "mnist"
    known_shapes: ClassVar[tuple[int, tuple[int, ...]] | None] = (10, (1, 28, 28))
    kind: ClassVar[Name] = "mnist"


@dataclass
class Cifar10(ImageSet):
    """CIFAR-10 (Krizhevsky 2009), from its binary version."""

    name: ClassVar[str] = "cifar10"
    known_shapes: ClassVar[tuple[int, tuple[int, ...]] | None] = (10, _CIFAR10)
    kind: ClassVar[Name] = "cifar10"


def training_images(name: Name, folder: Path) -> tuple[Images, Images]:
    """Return the images for training and, the last 5,000, for validation: views of one tensor. Raise DataError."""
    pixels, labels = _mnist(folder, "train") if name == "mnist" else _cifar10(folder, _training_files())
    if len(pixels) <= VALID:
        raise DataError(f"{folder} holds {len(pixels)} training images, and validation alone takes the last {VALID}")
    return Images(pixels[:-VALID], labels[:-VALID]), Images(pixels[-VALID:], labels[-VALID:])


def held_out_images(name: Name, folder: Path) -> Images:
    """Return the test images. Raise DataError if they cannot be read."""
    return _mnist(folder, "t10k") if name == "mnist" else _cifar10(folder, ["test_batch.bin"])


def label_of(name: Name, folder: Path) -> str:
    """Return the name of the data in results: the first line of a `label.txt` in its folder, else `name`.

    A modified copy of the data should have such a file ("CIFAR-10, JPEG q75"). Raise DataError if it cannot be read.
    """
    file = folder / _LABEL_FILE
    lines = read_utf8(file).splitlines() if file.is_file() else []
    return lines[0].strip() or name if lines else name


def _mnist(folder: Path, name: Literal["train", "t10k"]) -> Images:
    pixels, labels = read_mnist(folder, name)
    return Images(pixels.unsqueeze(1), labels)


def _training_files() -> list[str]:
    return [f"data_batch_{number}.bin" for number in range(1, 6)]


def _cifar10(folder: Path, names: Sequence[str]) -> Images:
    """Read files of the binary version of CIFAR-10, one after another, into one tensor."""
    sizes = [_records(folder / name) for name in names]
    pixels = torch.empty(sum(sizes), *_CIFAR10, dtype=torch.uint8)
    labels = torch.empty(sum(sizes), dtype=torch.uint8)
    start = 0
    for name, size in zip(names, sizes, strict=True):
        records = torch.from_numpy(np.fromfile(folder / name, dtype=np.uint8).reshape(size, _RECORD))
        pixels[start : start + size] = records[:, 1:].view(-1, *_CIFAR10)
        labels[start : start + size] = records[:, 0]
        start += size
    if (labels > 9).any():
        raise DataError(f"{folder} holds a label {labels.max()}: CIFAR-10 has the classes 0 to 9; is this CIFAR-100?")
    return Images(pixels, labels)


def _records(file: Path) -> int:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {error.strerror}; give a folder with CIFAR-10's binary version (its .bin files)"
        ) from None
    if not size or size % _RECORD:
        raise DataError(f"{file} has {size} bytes, no multiple of {_RECORD}: it is not CIFAR-10's binary version")
    return size // _RECORD
