"""What a training run reads: windows in order, and news of how well they were learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from dni.data.window import Window
from dni.errors import ConfigError


class Source(ABC):
    """Windows in order, from a state that a checkpoint can hold."""

    symbols: (
        int  #: V: the labels are below it (or IGNORED), or O where they are numbers; the model has that many outputs
    )
    #: per step
    input_symbols: int = 0  #: the inputs are below it: rows of an embedding; 0: they are numbers, not symbols
    streaming: bool = False  #: the labels after the window are not known yet, so there are none to look ahead to

    @abstractmethod
    def next(self) -> Window:
        """The next window; the first one is number 0."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plain numbers (and lists of them), from which an equally made source goes on exactly here."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""

    def report(self, window: int, loss: float, count: int) -> None:  # noqa: B027  # most ignore it
        """What training reached on window number `window`: nats summed over its T steps, and how many labels counted.

        May come several windows late, or never. A source whose order is fixed ignores it.
        """

    def figures(self) -> dict[str, float]:
        """Figures of the data for the records of training, by name; empty: there are none."""
        return {}

    def rest(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels (B, N) of the sequence under way after the newest window, where that is known."""
        raise NotImplementedError(f"{type(self).__name__} does not know the rest of a sequence")


class PassSource(Source):
    """A source whose windows are a function of their number, pass after pass over the same data."""

    windows_per_pass: int  #: from the start of the data to its end

    _window = 0

    @abstractmethod
    def window(self, n: int) -> Window:
        """Window n = 0, 1, ...; n beyond `windows_per_pass` goes on with the next pass."""

    def next(self) -> Window:
        """The next window; after the last one of a pass, the first of the next pass."""
        self._window += 1
        return self.window(self._window - 1)

    def state_dict(self) -> dict[str, Any]:
        """The number of the next window."""
        return {"window": self._window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._window = state["window"]


def refuse_future_labels(streaming: bool, future_labels: int) -> None:
    """Raise ConfigError if a stream is asked for labels that have not arrived yet."""
    if streaming and future_labels > 0:
        raise ConfigError(
            f"a streaming source does not know the {future_labels} labels after a window: "
            f"use future_labels 0, or a source that is not streaming"
        )
