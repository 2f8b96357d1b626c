"""Two tasks on one stream of digits, at two rates (Jaderberg et al. 2017, the two-network experiment)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from dni.data.base import Data, DataContext, FromFiles, in_passes
from dni.data.digest import digest_of_parts
from dni.data.sequential_mnist import Part, load_mnist, quantise
from dni.data.source import EpochSampler, PassSource
from dni.data.window import Window
from dni.errors import ConfigError, DataError
from dni.experimental.multi_rate import MultiRateStages
from dni.ranges import one_or_more
from dni.types import IGNORED, Inputs

_COUNTED = 3  #: the digit that the slower network counts


class TwoClocksSource(PassSource):
    """MNIST's digits as B streams, S a window; two networks are asked about the same digits at different rates.

    The faster one is asked at the end of every block of T digits how many of them are odd: `local_labels`, 0 to T,
    IGNORED at the end of a window that does not end a block. The slower one is asked how many 3s there were in the last
    T^2 digits of the sequence: `labels`, 0 to T^2, given with every window. Each has one label a window, at its last
    digit.

    Inputs are (B, S, side^2 + 1) float32: grey from 0 to 1, row by row, and a mark at the first digit of a block. A
    pass takes every image of its part at most once; the training images are shuffled anew by (seed, pass), the others
    keep their order.

    Args:
        folder: holds the four IDX files of MNIST, gzipped or not.
        batch: B, sequences at once.
        window: S, digits of a window.
        block_length: T, a multiple of S.
        sequence: digits between resets, a multiple of T; None: a stream's whole pass.
        part: `train` and `valid` (the last 5,000) of the training files, or `test`.
        seed: of the shuffling, not negative.
        side: 28, or 14 or 7: each pixel is then the mean of 2x2 or 4x4.

    Raises ConfigError for other settings, DataError if the files cannot be read or have too few images.
    """

    def __init__(
        self,
        folder: str | Path,
        batch: int,
        window: int,
        *,
        block_length: int,
        sequence: int | None = None,
        part: Part = "train",
        seed: int = 0,
        side: int = 28,
    ) -> None:
        if (
            min(batch, window, block_length) < 1
            or block_length % window
            or (sequence or block_length) % block_length
            or seed < 0
        ):
            raise ConfigError(
                f"need batch {batch} >= 1, seed {seed} >= 0, a block {block_length} of whole windows of {window}, and "
                f"a sequence {sequence} of whole blocks"
            )
        if side not in (28, 14, 7):
            raise ConfigError(f"side {side} must be 28, 14 or 7")
        images, self._digits = load_mnist(Path(folder).expanduser(), part)
        unit = sequence or block_length
        self._usable = len(images) // batch // unit * unit
        if not self._usable:
            raise DataError(
                f"{len(images)} {part} images are less than {batch} streams of {unit}: use a smaller batch, or shorter "
                "sequences"
            )
        self.batch, self.window_size, self.block_length = batch, window, block_length
        self.symbols = block_length**2 + 1
        self.windows_per_pass = self._usable // window
        self._sequence = sequence or self._usable
        self._pixels = quantise(images, side, 256)
        self._order = EpochSampler(len(images), seed=seed, shuffle=part == "train")

    def window(self, n: int) -> Window:
        """Window n = 0, 1, ...; n beyond `windows_per_pass` continues in the next pass."""
        number, within = divmod(n, self.windows_per_pass)
        start = within * self.window_size
        end = start + self.window_size
        streams = self._order.of(number)[: self.batch * self._usable].view(self.batch, self._usable)
        begun = start // self._sequence * self._sequence
        counted = self._digits[streams[:, max(begun, end - self.block_length**2) : end]] == _COUNTED
        reset, done = (torch.full((self.batch,), at % self._sequence == 0) for at in (start, end))
        labels, local = counted.sum(dim=1, keepdim=True), self._local_labels(streams, end)
        return Window(self._inputs(streams[:, start:end], start), labels, reset, done, local)

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return the images (n, side^2) and digits (n,) of this part, uint8."""
        return self._pixels, self._digits

    def _inputs(self, images: Tensor, start: int) -> Tensor:
        places = torch.arange(start, start + images.shape[1])
        first = (places % self.block_length == 0).float().expand(images.shape).unsqueeze(-1)
        return torch.cat([self._pixels[images].float() / 255, first], dim=-1)

    def _local_labels(self, streams: Tensor, end: int) -> Tensor:
        """(B, 1) int64."""
        if end % self.block_length:
            return torch.full((self.batch, 1), IGNORED)
        return (self._digits[streams[:, end - self.block_length : end]] % 2).sum(dim=1, keepdim=True)


@dataclass
class TwoClocks(FromFiles):
    """A stream of MNIST's digits, and two questions about it: how many of a block are odd, how many were 3s."""

    side: int = 28  # [pixels] a side of the image: 28, 14 or 7
    block_length: int = one_or_more(4)  # [digits] T: network A counts the odd ones of T, B the 3s of the last T^2

    name: ClassVar[str] = "two_clocks"
    gives: ClassVar[Inputs] = Inputs.vectors
    one_label: ClassVar[bool] = True

    @property
    def local_classes(self) -> int:
        return self.block_length + 1

    def open(self, context: DataContext) -> Data:
        shape: dict[str, Any] = {"block_length": self.block_length, "sequence": self.sequence, "side": self.side}

        def source(part: Part) -> TwoClocksSource:
            folder = self.path or "mnist"
            return TwoClocksSource(folder, self.batch, context.window, **shape, part=part, seed=context.seed)

        train, valid = source("train"), source("valid")
        digest, test = partial(digest_of_parts, train, valid), partial(source, "test")
        return in_passes(self.name, train, valid, digest=digest, test=test, input_shape=(self.side**2 + 1,))

    def check(self, run: Any) -> None:
        super().check(run)
        if run.time.answers or run.whole_sequences:
            raise ConfigError(f"data=two_clocks goes with time=truncated, not with time={run.time.name}")
        if not isinstance(run.depth, MultiRateStages):
            raise ConfigError(
                f"data=two_clocks has a task of the first stage's own, which depth={run.depth.name} does not learn: "
                "use depth=multi_rate or depth=multi_rate_backprop"
            )
        if self.block_length % self.window:
            raise ConfigError(
                f"data.block_length={self.block_length} is not a multiple of data.window={self.window}: set "
                f"data.window={self.block_length}, say"
            )
        if self.sequence is not None and self.sequence % self.block_length:
            raise ConfigError(
                f"data.sequence={self.sequence} is not a multiple of data.block_length={self.block_length}: set "
                f"data.sequence={self.block_length**2}, say (or data.sequence=null)"
            )
