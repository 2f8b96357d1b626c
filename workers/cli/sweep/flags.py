"""Whether a command asks for several runs."""

from __future__ import annotations

from collections.abc import Sequence

#: Hydra's flags for several runs.
SWEEPS = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command asks for several runs."""
    return any(word in SWEEPS for word in arguments)
