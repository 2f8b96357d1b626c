"""What a stage adds up from its first step on. It is part of a checkpoint, so that a resumed run goes on adding."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class RunTotals:
    """Sums of one stage; times in seconds. `wall_s` and `blocked_s` end with the last checkpoint."""

    steps: int = 0
    characters: int = 0  #: labels of all steps
    train_s: float = 0.0  #: that training steps took or were waited for
    wall_s: float = 0.0  #: of the sittings before this one
    blocked_s: float = 0.0  #: of these, waiting for other stages
    nats: float = 0.0  #: summed loss since the last training record
    labels: int = 0  #: of that loss
    recorded_steps: int = 0  #: `steps` at the last training record
    unrecorded_s: float = 0.0  #: of the sittings before this one, since the last training record
    train_loss: float | None = None  #: nats per label, of the last training record
    own: dict[str, float] = field(default_factory=dict)  #: the last validation figures of a task of the stage's own
    peak_rss_mb: float = 0.0  #: of the sittings before this one

    def state_dict(self, wall_s: float, blocked_s: float, unrecorded_s: float) -> dict[str, Any]:
        """As they are at this moment."""
        times = {"wall_s": wall_s, "blocked_s": blocked_s, "unrecorded_s": unrecorded_s}
        return asdict(self) | times | {"peak_rss_mb": self.peak()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name in (each.name for each in fields(self)):
            setattr(self, name, state[name])

    def peak(self) -> float:
        """The largest resident memory of any sitting, in MB."""
        return max(self.peak_rss_mb, peak_rss_mb())


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
