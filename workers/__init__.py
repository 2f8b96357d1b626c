"""Processes, links and files around `dni`. In Python: `from workers import train` (`workers.api`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.api import TrainedRun, train

__all__ = ["TrainedRun", "train"]


def __getattr__(name: str) -> Any:
    """Import the Python interface on first use: a stage's process does not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from workers import api

    return getattr(api, name)
