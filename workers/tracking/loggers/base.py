"""What a logger is told of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LoggedRun:
    """A run, for a logger: any class that takes one and is a `Display` (`show(record)`, `close()`)."""

    run_dir: Path
    stages: int  #: K; the last stage reports for the whole model
    project: str  #: in which the service keeps the run
    settings: Mapping[str, Any]  #: all of them, nested

    @property
    def last(self) -> int:
        """The index of the last stage."""
        return self.stages - 1

    @property
    def flat(self) -> dict[str, Any]:
        """All settings by dotted name."""
        return dict(_flat(self.settings))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
