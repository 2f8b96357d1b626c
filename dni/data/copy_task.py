"""The copy and repeat-copy tasks: read bits, then reproduce them once or several times (Graves et al. 2014).

Examples with N = 3 bits copied once, and N = 2 bits repeated R = 2 times (`.` is IGNORED, `_` is BLANK):

    inputs  MARK 1 0 1 x1 _ _ _  _          inputs  MARK 1 0 x2 _ _ _ _  _
    labels    .  . . .  . 1 0 1 MARK        labels    .  . .  . 1 0 1 0 MARK

A sequence has (R + 1) N + 3 steps (2 N + 3 to copy once), of which R N + 1 count. The input `xR` ends the reading and
gives the number of copies. Ids: 0 and 1 are the bits, 2 is MARK (start as an input, end as a label), 3 is BLANK, and
3 + R is `xR`. Sequences are padded to whole windows with BLANK and IGNORED labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count as count_from
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dni.data.source import Source, refuse_future_labels
from dni.data.window import Window
from dni.errors import ConfigError
from dni.types import IGNORED

MARK, BLANK = 2, 3
#: Most repeats. After 32 repeats (sequences of 1,059 steps), only the number of bits grows.
MOST_REPEATS = 32
#: Most sequences with missing reports; the oldest are dropped.
_MOST_UNREPORTED = 64


@dataclass
class _Unreported:
    """The losses reported so far for a sequence."""

    missing: set[int]  # numbers of the windows with counted labels and without a report
    loss: float = 0.0
    count: int = 0


class CopySource(Source):
    """Batches of B sequences of equal length, drawn from (seed, number of the batch); all streams run in step.

    The curriculum begins at level 1, N = R = 1. A batch that began at the current level solves it if its mean loss over
    counted labels is below `threshold_bits`. The next batch is then longer: N grows by one, or in repeat copy N and R
    in turn, N first (lengths 5, 7, 9, 12, 15, 19, ...).

    Args:
        batch: B, sequences at once.
        window: T, time steps of a window; None: one window is one whole sequence.
        future_labels: L, labels after a window.
        seed: seed of the bits, not negative.
        repeat: the repeat-copy task instead of copy.
        length: time steps of every sequence; None: the curriculum.
        threshold_bits: bits per counted label below which a level is solved.
        streaming: labels after the window are not known.

    Raise ConfigError if the sizes do not fit, if no sequence has `length` steps, or for a stream with future labels.
    """

    symbols = 3  #: 0, 1 and MARK

    def __init__(
        self,
        batch: int,
        window: int | None,
        future_labels: int = 0,
        *,
        seed: int,
        repeat: bool = False,
        length: int | None = None,
        threshold_bits: float = 0.15,
        streaming: bool = False,
    ) -> None:
        if batch < 1 or (window is not None and window < 1) or future_labels < 0 or seed < 0:
            raise ConfigError(
                f"need batch {batch} >= 1, window {window} >= 1, future_labels {future_labels}, seed {seed} >= 0"
            )
        refuse_future_labels(streaming, future_labels)
        self.batch, self.future_labels, self._fixed_window = batch, future_labels, window
        self.seed, self.threshold_bits, self.streaming = seed, threshold_bits, streaming
        self._most_repeats = MOST_REPEATS if repeat else 1
        self.input_symbols = 4 + self._most_repeats
        self._fixed = None if length is None else self._level_of(length)
        self._solved = 0  # the highest solved level
        self._window, self._sequences = 0, 0  # numbers of windows returned and of sequences begun
        self._first, self._running = 0, 1  # first window and level of the current sequence
        self._inputs, self._labels = torch.empty(batch, 0), torch.empty(batch, 0)
        self._unreported: list[_Unreported] = []  # sequences of the current level, oldest first

    def figures(self) -> dict[str, float]:
        """Return the length of the longest solved sequences, in time steps."""
        return {"solved_length": self.solved_length}

    @property
    def level(self) -> int:
        """The level of the next sequence: 1, 2, ..."""
        return self._fixed or self._solved + 1

    @property
    def length(self) -> int:
        """Time steps of a sequence of the current level, without padding."""
        return self._length(self.level)

    @property
    def solved_length(self) -> int:
        """Time steps of the longest solved sequences; 0: none yet."""
        return self._length(self._solved) if self._solved else 0

    @property
    def window_size(self) -> int:
        """T in the current sequence."""
        return self._fixed_window or self._length(self._running)

    @property
    def windows_per_sequence(self) -> int:
        """Number of windows in a sequence of the current level."""
        return math.ceil(self.length / (self._fixed_window or self.length))

    def longest_within(self, steps: int) -> int:
        """Return the largest sequence length of at most `steps` up to the current level; else that of level 1."""
        lengths = [self._length(level) for level in range(1, self.level + 1)]
        return max((n for n in lengths if n <= steps), default=lengths[0])

    def next(self) -> Window:
        """Return the next window of all streams."""
        start = (self._window - self._first) * self.window_size
        if start >= self._inputs.shape[1]:
            self._begin()
            start = 0
        self._window += 1
        end = start + self.window_size
        labels = self._labels[:, start : end + self.future_labels].clone()
        reset, done = (torch.full((self.batch,), here) for here in (start == 0, end == self._inputs.shape[1]))
        return Window(self._inputs[:, start:end].clone(), labels, reset, done)

    def rest(self) -> tuple[Tensor, Tensor]:
        """Return inputs and labels (B, N) of the current sequence after the newest window; N = 0 at its end."""
        end = (self._window - self._first) * self.window_size
        return self._inputs[:, end:], self._labels[:, end : self._inputs.shape[1]]

    def report(self, window: int, loss: float, count: int) -> None:
        """Take the summed nats and the number of counted labels of a window, once, if its level is the current one."""
        for sequence in self._unreported:
            if window in sequence.missing:
                sequence.missing.remove(window)
                sequence.loss += loss
                sequence.count += count
                if not sequence.missing:
                    self._finish(sequence)
                return

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the source and the reports of windows."""
        return {
            "window": self._window,
            "sequences": self._sequences,
            "first": self._first,
            "running": self._running,
            "solved": self._solved,
            "unreported": [[sorted(s.missing), s.loss, s.count] for s in self._unreported],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict` in a source made with the same arguments."""
        self._window, self._sequences = state["window"], state["sequences"]
        self._first, self._running, self._solved = state["first"], state["running"], state["solved"]
        self._unreported = [_Unreported(set(missing), loss, n) for missing, loss, n in state["unreported"]]
        if self._sequences:
            self._inputs, self._labels = self._draw()

    def _shape(self, level: int) -> tuple[int, int]:
        """Return N and R of a level."""
        repeats = min((level + 1) // 2, self._most_repeats)
        return level + 1 - repeats, repeats

    def _length(self, level: int) -> int:
        bits, repeats = self._shape(level)
        return (repeats + 1) * bits + 3

    def _level_of(self, length: int) -> int:
        level = next(n for n in count_from(1) if self._length(n) >= length)
        if self._length(level) != length:
            near = [str(self._length(n)) for n in (level - 1, level) if n]
            raise ConfigError(f"no sequence of this task has {length} steps: use {' or '.join(near)}")
        return level

    def _begin(self) -> None:
        self._first, self._running = self._window, self.level
        self._sequences += 1
        self._inputs, self._labels = self._draw()
        counted = (self._labels[0] != IGNORED).nonzero().flatten() // self.window_size
        self._unreported.append(_Unreported({self._first + n for n in counted.tolist()}))
        del self._unreported[:-_MOST_UNREPORTED]

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Return inputs (B, padded) and labels (B, padded + L) of the current sequence."""
        n, repeats = self._shape(self._running)
        length = self._length(self._running)
        drawn = np.random.default_rng((self.seed, self._sequences)).integers(0, 2, (self.batch, n))
        bits = torch.from_numpy(drawn)
        padded = math.ceil(length / self.window_size) * self.window_size
        inputs = torch.full((self.batch, padded), BLANK)
        inputs[:, 0], inputs[:, 1 : n + 1], inputs[:, n + 1] = MARK, bits, BLANK + repeats
        labels = torch.full((self.batch, padded + self.future_labels), IGNORED)
        labels[:, n + 2 : length - 1], labels[:, length - 1] = bits.repeat(1, repeats), MARK
        return inputs, labels

    def _finish(self, sequence: _Unreported) -> None:
        self._unreported.remove(sequence)
        if sequence.loss < self.threshold_bits * math.log(2) * sequence.count:
            self._solved = self.level
            self._unreported.clear()  # the others began at the solved level
