"""Detect divergence from the losses that a stage measures.

A loss is absurd if it exceeds both FACTOR times the loss of the first step and FACTOR times the loss of guessing: ln V
nats per label, or O / 2 for regression, the loss of the mean of numbers with variance one. The second limit matters if
the first loss is near zero. A stage has diverged once the newest loss and the mean of the last STEPS losses are both
absurd. The end of a shorter run uses the mean of all its losses.
"""

from __future__ import annotations

from collections import deque
from typing import Any

STEPS = 100
FACTOR = 10.0


class DivergenceWatch:
    """The losses of one stage, in its unit per label.

    Args:
        guessing: loss of a model that knows nothing, such as ln V.
    """

    unit = "nats"  #: of the losses, for messages

    def __init__(self, guessing: float = 0.0) -> None:
        self.guessing = guessing
        self.first: float | None = None
        self.recent: deque[float] = deque(maxlen=STEPS)
        self.good = 0  #: newest step after which the loss was not absurd, as the next step measured it

    @property
    def limit(self) -> float:
        """Losses above it are absurd."""
        return FACTOR * max(self.first or 0.0, self.guessing)

    @property
    def mean(self) -> float:
        """Mean of the last STEPS losses, or of all if there are fewer; 0 without any."""
        return sum(self.recent) / len(self.recent) if self.recent else 0.0

    @property
    def absurd(self) -> bool:
        """Whether the newest loss is absurd."""
        return bool(self.recent) and self.recent[-1] > self.limit

    def add(self, step: int, loss: float) -> None:
        """Add the loss of a step, measured before its update."""
        self.first = loss if self.first is None else self.first
        self.recent.append(loss)
        if not self.absurd:
            self.good = step - 1

    def diverged(self, *, at_the_end: bool = False) -> bool:
        """Return whether the stage has diverged; `at_the_end` accepts fewer than STEPS losses."""
        enough = at_the_end or len(self.recent) == STEPS
        return enough and self.absurd and self.mean > self.limit

    def verdict(self) -> str:
        """Return the error message."""
        return (
            f"the loss of the last {len(self.recent)} steps is {self.mean:.4g} {self.unit} per label on average, more "
            f"than {FACTOR:g} times the first step's ({self.first or 0.0:.4g}) and {FACTOR:g} times the loss of "
            f"guessing ({self.guessing:.4g}): lower the learning rates or clip gradients"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"first": self.first, "recent": list(self.recent), "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict`."""
        self.first, self.good = state["first"], state["good"]
        self.recent = deque(state["recent"], maxlen=STEPS)
