"""Sequences with one label, at their end: a symbol that was read first, and digits in pieces of pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from dni.data.base import Data, DataContext, DataSet, FromFiles, in_passes
from dni.data.digest import digest_of_parts
from dni.data.sequential_mnist import Part, load_mnist
from dni.data.source import EpochSampler, PassSource
from dni.data.window import Window
from dni.errors import ConfigError
from dni.ranges import one_or_more
from dni.types import IGNORED, Inputs

EXAMPLES = 4096  #: generated sequences of one part


class LateLabelSource(PassSource):
    """B streams of sequences of N steps in windows of T, with one label at the last step.

    Args:
        inputs: (n, N) int64 symbols, or (n, N, D) uint8, which become numbers from 0 to 1.
        labels: (n,) int64.
        batch: B.
        context: window T, which must divide N, future labels and seed.
        sizes: number of classes, and of input symbols (0: vectors).
        shuffle: draw the order of the sequences with (seed, pass); else keep it.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, batch: int, context: DataContext, sizes: tuple[int, int], shuffle: bool
    ) -> None:
        if inputs.shape[1] % context.window:
            raise ConfigError(f"data.window={context.window} does not divide a sequence of {inputs.shape[1]} steps")
        self.symbols, self.input_symbols = sizes
        self.batch, self.steps, self.future_labels = batch, context.window, context.future_labels
        self._inputs, self._labels = inputs, labels
        self._windows = inputs.shape[1] // self.steps
        self.windows_per_pass = len(inputs) // batch * self._windows
        self._order = EpochSampler(len(inputs), seed=context.seed, shuffle=shuffle)

    def window(self, n: int) -> Window:
        """Return window n = 0, 1, ...; from `windows_per_pass` on, those of the next passes."""
        number, within = divmod(n, self.windows_per_pass)
        group, place = divmod(within, self._windows)
        rows, start = self._order.of(number)[group * self.batch : (group + 1) * self.batch], place * self.steps
        inputs = self._inputs[rows, start : start + self.steps]
        labels = torch.full((self.batch, self.steps + self.future_labels), IGNORED)
        if (last := self._inputs.shape[1] - 1 - start) < labels.shape[1]:
            labels[:, last] = self._labels[rows]
        reset, done = (torch.full((self.batch,), here) for here in (place == 0, place == self._windows - 1))
        return Window(inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs, labels, reset, done)

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of all sequences."""
        return self._inputs, self._labels


@dataclass
class DelayedLabel(DataSet):
    """A symbol that names the class, then noise; the label comes at the last step."""

    length: int = one_or_more(112)  # [time steps] of a sequence
    noise: int = one_or_more(8)  # [symbols] of the noise, other than those of the classes

    name: ClassVar[str] = "delayed_label"
    classes: ClassVar[int] = 8

    @property
    def whole_length(self) -> int | None:
        return self.length

    @property
    def label_delay(self) -> int:
        return self.length

    def open(self, context: DataContext) -> Data:
        return _opened(self.name, partial(self._source, context), (0, 1, 2))

    def _source(self, context: DataContext, number: int) -> LateLabelSource:
        generator = torch.Generator().manual_seed(3 * context.seed + number)
        inputs = torch.randint(self.classes, self.classes + self.noise, (EXAMPLES, self.length), generator=generator)
        inputs[:, 0] = torch.randint(self.classes, (EXAMPLES,), generator=generator)
        sizes = self.classes, self.classes + self.noise
        return LateLabelSource(inputs, inputs[:, 0].clone(), self.batch, context, sizes, shuffle=number == 0)


@dataclass
class Digits(FromFiles):
    """Digits of MNIST, some pixels at each time step, row by row or in one order drawn for all of them."""

    pixels: int = one_or_more(8)  # [pixels] of a time step; must divide 784
    permuted: bool = False  # one order of the pixels, the same for all images, drawn once (Le et al. 2015)

    name: ClassVar[str] = "digits"
    gives: ClassVar[Inputs] = Inputs.vectors

    @property
    def whole_length(self) -> int | None:
        return 784 // self.pixels

    @property
    def label_delay(self) -> int:
        return 784 // self.pixels

    def open(self, context: DataContext) -> Data:
        parts = "train", "valid", "test"
        return _opened(self.name, partial(self._source, context), parts, input_shape=(self.pixels,))

    def _source(self, context: DataContext, part: Part) -> LateLabelSource:
        images, labels = load_mnist(Path(self.path or "mnist"), part)
        flat = images.flatten(1)
        if self.permuted:
            flat = flat[:, torch.randperm(784, generator=torch.Generator().manual_seed(0))]
        inputs = flat.view(len(flat), -1, self.pixels)
        return LateLabelSource(inputs, labels.long(), self.batch, context, (10, 0), shuffle=part == "train")


def _opened(name: str, make: Callable[..., LateLabelSource], parts: tuple[Any, Any, Any], **more: Any) -> Data:
    """Return the opened data, with the sources that `make` returns for the training, validation and test part."""
    train, valid = make(parts[0]), make(parts[1])
    digest = partial(digest_of_parts, train, valid)
    return in_passes(name, train, valid, digest=digest, test=partial(make, parts[2]), **more)
