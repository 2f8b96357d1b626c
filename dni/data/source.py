"""What a training run reads: windows in order, and news of how well they were learned."""

from __future__ import annotations

from typing import Any, Protocol

from dni.data.window import Window
from dni.errors import ConfigError


class Source(Protocol):
    """Windows in order, from a state that a checkpoint can hold."""

    @property
    def symbols(self) -> int:
        """V: the labels are below it (or IGNORED); the model has that many outputs per step."""

    @property
    def input_symbols(self) -> int:
        """The inputs are below it: rows of the model's embedding; equal to `symbols` where inputs are labels too.

        0: they are numbers, not symbols.
        """

    @property
    def streaming(self) -> bool:
        """True: the labels after the window are not known yet, so there are none to look ahead to."""

    def next(self) -> Window:
        """The next window; the first one is number 0."""

    def report(self, window: int, loss: float, count: int) -> None:
        """What training reached on window number `window`: nats summed over its T steps, and how many labels counted.

        May come several windows late, or never; a report that is of no use any more is ignored.
        """

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers (and lists of them), from which an equally made source goes on exactly here."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


def refuse_lookahead(streaming: bool, lookahead: int) -> None:
    """Raise ConfigError if a stream is asked for labels that have not arrived yet."""
    if streaming and lookahead > 0:
        raise ConfigError(
            f"a streaming source does not know the {lookahead} labels after a window: "
            f"use lookahead 0, or a source that is not streaming"
        )
