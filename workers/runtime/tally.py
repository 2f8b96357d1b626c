"""Totals of a stage since its first step. Checkpoints hold them, so that a resumed run continues the sums.

Also the figures of its optimizers, and how long it waits for each neighbour.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dni.stages.base import Stage
from workers.comm.edge import WaitTime


@dataclass
class RunTotals:
    """Sums of one stage; times in seconds. `wall_s` and `blocked_s` are as of the checkpoint that was resumed."""

    steps: int = 0
    characters: int = 0  #: labels of all steps
    train_s: float = 0.0  #: of training steps, including waits
    wall_s: float = 0.0  #: of the processes before this one
    blocked_s: float = 0.0  #: of that time, spent waiting for other stages
    nats: float = 0.0  #: summed loss since the last training record
    labels: int = 0  #: labels in that loss
    recorded_steps: int = 0  #: `steps` at the last training record
    unrecorded_s: float = 0.0  #: of the processes before this one, since the last training record
    train_loss: float | None = None  #: nats per label, in the last training record
    own: dict[str, float] = field(default_factory=dict)  #: last validation figures of a task that this stage alone has
    peak_rss_mb: float = 0.0  #: of the processes before this one
    sent_bytes: int = 0  #: of tensors, by the processes before this one, and by a pipeline

    def state_dict(self, **current: float) -> dict[str, Any]:
        """Return the totals with these current times, and bytes sent."""
        return asdict(self) | current | {"peak_rss_mb": self.peak()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the totals from `state_dict`."""
        for name in (each.name for each in fields(self) if each.name in state):  # older checkpoints have fewer
            setattr(self, name, state[name])

    def peak(self) -> float:
        """Return the peak resident memory, in MB, of this process and those before it."""
        return max(self.peak_rss_mb, peak_rss_mb())


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def optimizer_figures(parts: Sequence[Stage]) -> dict[str, float | None]:
    """Return `learning_rate` and `gradient_norm` of the parts of the model that one stage holds.

    The rate is the schedule's for this step, before `optimizer.staleness` reduces it. The norm is that of the mean
    gradient of all parts at the newest optimizer step, before clipping; None before the first step.
    """
    rate = float(parts[0].optimizer.param_groups[0]["lr"]) if parts else None
    norms = [part.gradient_norm for part in parts if part.gradient_norm is not None]
    return {"learning_rate": rate, "gradient_norm": math.hypot(*norms) if norms else None}


def waited_shares(clock: WaitTime, index: int, seconds: float, *, last: bool) -> dict[str, float]:
    """Return the share of the last `seconds` that stage `index` waited for the stage before it, and for the one after.

    A neighbour that it does not have is left out.
    """
    waited = {stage: min(1.0, waited_s / seconds) for stage, waited_s in clock.take().items()}
    before = {"waited_previous": waited.get(index - 1, 0.0)} if index else {}
    return before | ({} if last else {"waited_next": waited.get(index + 1, 0.0)})
