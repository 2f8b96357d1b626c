"""When a stage has diverged: a rule on the losses that it measures.

A loss is absurd if it is more than FACTOR times that of the first step, and more than FACTOR times what guessing costs,
so that a first loss near zero condemns nothing. Guessing costs ln V nats per label; in regression half of O, which is
the cost of the mean where numbers have a variance of one. A stage has diverged once the newest loss and the mean of the
last STEPS are both absurd; a run with fewer steps is judged by all of them at its end.
"""

from __future__ import annotations

from collections import deque
from typing import Any

STEPS = 100
FACTOR = 10.0


class DivergenceWatch:
    """The losses of one stage, in its unit per label.

    Args:
        guessing: what a model costs that knows nothing: ln V, say.
    """

    unit = "nats"  #: of the losses, for messages

    def __init__(self, guessing: float = 0.0) -> None:
        self.guessing = guessing
        self.first: float | None = None
        self.recent: deque[float] = deque(maxlen=STEPS)
        self.good = 0  #: the newest step after which the parameters were good: the loss of the next one was not absurd

    @property
    def limit(self) -> float:
        """From where on a loss is absurd."""
        return FACTOR * max(self.first or 0.0, self.guessing)

    @property
    def mean(self) -> float:
        """Of the last STEPS losses, or of all if they are fewer."""
        return sum(self.recent) / len(self.recent) if self.recent else 0.0

    @property
    def absurd(self) -> bool:
        """Whether the newest loss is."""
        return bool(self.recent) and self.recent[-1] > self.limit

    def add(self, step: int, loss: float) -> None:
        """Take the loss of a step, measured before its update."""
        self.first = loss if self.first is None else self.first
        self.recent.append(loss)
        if not self.absurd:
            self.good = step - 1

    def diverged(self, *, at_the_end: bool = False) -> bool:
        """Whether the stage has, by now; `at_the_end`: also by fewer than STEPS losses."""
        enough = at_the_end or len(self.recent) == STEPS
        return enough and self.absurd and self.mean > self.limit

    def verdict(self) -> str:
        """Why, in words."""
        return (
            f"the loss of the last {len(self.recent)} steps is {self.mean:.4g} {self.unit} per label on average, more "
            f"than {FACTOR:g} times the first step's ({self.first or 0.0:.4g}) and {FACTOR:g} times what guessing "
            f"costs ({self.guessing:.4g}): lower the learning rates or clip gradients"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run judges by."""
        return {"first": self.first, "recent": list(self.recent), "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.first, self.good = state["first"], state["good"]
        self.recent = deque(state["recent"], maxlen=STEPS)
