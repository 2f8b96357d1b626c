"""Why a run ends before its last step: it is interrupted, it has diverged, or validation has not improved for long."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any

log = logging.getLogger(__name__)

Record = Mapping[str, Any]


class Stop(Event):
    """Once set, the run ends in good order after the step under way; the first reason is the one that is kept."""

    reason: str | None = None  #: "interrupted", "patience" or "diverged"
    diverged: Record | None = None  #: what the first stage that has diverged says of it

    def because(self, reason: str) -> None:
        """Set, and say why. Safe in a signal handler, which may find the thread it stops in the middle of this."""
        if self.reason is None:
            self.reason = reason
            self.set()


def best(valid: Sequence[Record]) -> Record | None:
    """The first validation pass with the smallest figure of `judged_by`; None if none has one that is finite."""
    measured = [record for record in valid if record.get(judged_by(record)) is not None]
    return min(measured, key=lambda record: float(record[judged_by(record)]), default=None)


def judged_by(record: Record) -> str:
    """The figure that is the smaller, the better: bits per label, or a loss that has a unit of its own."""
    return "loss" if "unit" in record else "bits_per_label"


def waited(valid: Sequence[Record]) -> int:
    """How many passes have come since the best one."""
    chosen = best(valid)
    return len(valid) - 1 - next((n for n, record in enumerate(valid) if record is chosen), -1)


def stop_when_no_better(
    sink: Callable[[dict[str, Any]], None], valid: Sequence[Record], stop: Stop, patience: int, last: int
) -> Callable[[dict[str, Any]], None]:
    """A sink that sets `stop` once `patience` passes were no better than the best.

    `valid`: the passes that `sink` has kept, earlier ones of a resumed run first; `last`: step after which the run
    ends anyway.
    """

    def note(record: dict[str, Any]) -> None:
        sink(record)
        if record["kind"] != "valid" or record["step"] >= last or stop.is_set() or waited(valid) < patience:
            return
        chosen = best(valid[-1:]) and best(valid)
        if chosen is not None:  # a pass that is not finite ends nothing: training will say that it diverged
            log.info("no validation since step %d was better: stopping after the step under way", chosen["step"])
            stop.because("patience")

    return note
