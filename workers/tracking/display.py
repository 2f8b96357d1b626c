"""What shows the records of a run: terminal, TensorBoard, Prometheus, and the loggers of `tracking.loggers`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

log = logging.getLogger(__name__)

Record = Mapping[str, Any]


class Display(Protocol):
    """Shows records."""

    def show(self, record: Record) -> None:
        """Show one record."""

    def close(self) -> None:
        """Show no further ones."""


class IsolatedSink:
    """A display that is built on first use; its first error is logged and ends the display, not the run."""

    def __init__(self, name: str, make: Callable[[], Display]) -> None:
        self.name, self._make, self._failed = name, make, False
        self._part: Display | None = None

    def show(self, record: Record) -> None:
        def act() -> None:
            self._part = self._part or self._make()
            self._part.show(record)

        self._try(act)

    def close(self) -> None:
        if self._part is not None:
            self._try(self._part.close)

    def _try(self, act: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            act()
        except Exception as error:  # a display must not end a run
            self._failed = True
            log.warning("%s display is off for the rest of this run: %r", self.name, error)
            with contextlib.suppress(Exception):
                if self._part is not None:
                    self._part.close()  # restores the terminal
