"""End a run before its last step: after an interrupt, a divergence, or validation that no longer improves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any

log = logging.getLogger(__name__)

Record = Mapping[str, Any]


#: Reason of a stop by a signal.
INTERRUPTED = "interrupted"

#: Kind of the record that the first stage has broken off a validation pass. It is sent before the pass ends.
BROKEN_OFF = "broken_off"


class Stop(Event):
    """An event that ends the run in good order after the current step; the first reason is kept."""

    reason: str | None = None  #: "interrupted", "patience" or "diverged"
    diverged: Record | None = None  #: the record of the first stage that diverged

    def because(self, reason: str) -> None:
        """Set the event and its reason. Safe in a signal handler that interrupts this method."""
        if self.reason is None:
            self.reason = reason
            self.set()


def best(valid: Sequence[Record]) -> Record | None:
    """Return the first validation pass with the smallest `main_figure`; None if none is finite."""
    measured = [record for record in valid if record.get(main_figure(record)) is not None]
    return min(measured, key=lambda record: float(record[main_figure(record)]), default=None)


def main_figure(record: Record) -> str:
    """Return the name of the figure to minimise: bits per label, or the loss if it has its own unit."""
    return "loss" if "unit" in record else "bits_per_label"


def passes_since_best(valid: Sequence[Record]) -> int:
    """Return the number of validation passes since the best one."""
    chosen = best(valid)
    return len(valid) - 1 - next((n for n, record in enumerate(valid) if record is chosen), -1)


def stop_when_no_better(
    sink: Callable[[dict[str, Any]], None], valid: Sequence[Record], stop: Stop, patience: int, last: int
) -> Callable[[dict[str, Any]], None]:
    """Return a sink that sets `stop` after `patience` validation passes without a better one.

    Args:
        sink: gets every record first
        valid: the validation records that `sink` keeps, those of a resumed run first
        stop: set once patience is exhausted
        patience: passes without a better one
        last: the step at which the run ends anyway
    """

    def note(record: dict[str, Any]) -> None:
        sink(record)
        if record["kind"] != "valid" or record["step"] >= last or stop.is_set() or passes_since_best(valid) < patience:
            return
        chosen = best(valid[-1:]) and best(valid)
        if chosen is not None:  # a non-finite pass does not end the run: training will report the divergence
            log.info("no validation since step %d was better: stopping after this step", chosen["step"])
            stop.because("patience")

    return note


def without_broken_off(sink: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Return a sink that drops the figures of a validation pass that an interrupt has broken off."""
    steps: set[int] = set()

    def note(record: dict[str, Any]) -> None:
        if record["kind"] == BROKEN_OFF:
            steps.add(record["step"])
        elif record["kind"] not in ("valid", "own") or record["step"] not in steps:
            sink(record)

    return note
