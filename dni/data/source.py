"""Sources of training windows, in order. Some of them use the losses that training reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dni.data.window import Window
from dni.errors import ConfigError


class Source(ABC):
    """Base class of the sources: windows in order, with a state that a checkpoint can hold."""

    symbols: int  #: V: labels are below it (or IGNORED); O, numbers of one label, for regression. The model has as many
    #: outputs per step
    input_symbols: int = 0  #: number of input symbols, which are rows of an embedding; 0: inputs are numbers
    windows_per_pass: int | None = None  #: number of windows from the start of the data to its end; None: unknown
    streaming: bool = False  #: labels after the window are not known yet, so there are no future labels

    @abstractmethod
    def next(self) -> Window:
        """Return the next window. The first one is number 0."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers (and lists of them), with which a source made alike continues exactly here."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""

    def report(self, window: int, loss: float, count: int) -> None:  # noqa: B027  # most ignore it
        """Take the training loss on window number `window`: nats summed over T steps, and number of counted labels.

        A report may come several windows late, or never. A source with a fixed order ignores it.
        """

    def figures(self) -> dict[str, float]:
        """Return figures of the data for the training records, by name; empty: none."""
        return {}

    def rest(self) -> tuple[Tensor, Tensor]:
        """Return inputs and labels (B, N) of the current sequence after the newest window, if they are known."""
        raise NotImplementedError(f"{type(self).__name__} does not know the rest of a sequence")


class PassSource(Source):
    """Base class of sources that run over the same data pass after pass. A window is a function of its number."""

    windows_per_pass: int

    _window = 0

    @abstractmethod
    def window(self, n: int) -> Window:
        """Return window n = 0, 1, ...; from `windows_per_pass` on, those of the next passes."""

    def next(self) -> Window:
        """Return the next window. The next pass follows the last window of a pass."""
        self._window += 1
        return self.window(self._window - 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the next window."""
        return {"window": self._window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._window = state["window"]


def refuse_future_labels(streaming: bool, future_labels: int) -> None:
    """Raise ConfigError if a stream should have labels after a window."""
    if streaming and future_labels > 0:
        raise ConfigError(
            f"a streaming source does not know the {future_labels} labels after a window: "
            f"use future_labels 0, or a source that is not streaming"
        )


class EpochSampler:
    """An order of `count` examples for each pass: shuffled with (seed, pass), or ascending without `shuffle`."""

    def __init__(self, count: int, *, seed: int = 0, shuffle: bool) -> None:
        self.count, self.seed, self.shuffle = count, seed, shuffle
        self._latest: tuple[int, Tensor] = (-1, torch.empty(0))

    def of(self, number: int) -> Tensor:
        """Return the order (count,) int64 of pass `number` = 0, 1, ... The latest one is cached."""
        if self._latest[0] != number:
            self._latest = number, self._order(number)
        return self._latest[1]

    def _order(self, number: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.from_numpy(np.random.default_rng((self.seed, number)).permutation(self.count))
