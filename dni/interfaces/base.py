"""Where the gradient at a cut comes from.

A value (an activation in depth, a packed state in time) leaves a stage; a gradient ought to come back. Every interface
answers two calls: `gradient(step, value, labels)` now, `target(step, gradient)` when the real thing arrives, if ever.

    ZeroInterface        no gradient at all: truncated backpropagation through time
    TrueInterface        the true gradient, waited for: locked backpropagation
    LossInterface        the end of the network: the loss itself
    DecoupledInterface   a predicted gradient now, its target later (`dni.interfaces.synthetic`)
    LocalInterface       the gradient of a loss of the stage's own (`dni.interfaces.local`)
    DelayedInterface     the true gradient, later, for a stage that keeps its windows (`dni.interfaces.delayed`)
    MultiRateInterface   one of these, if the next stage works at some steps only (`dni.interfaces.wrapper`)
    LocalObjective       one of these, plus the gradient of a loss of the stage's own (`dni.interfaces.local_objective`)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from dni.loss_function import Judgement
from dni.losses import count_rows
from dni.misuse import require_target


class ReadyStep(NamedTuple):
    """A window to go back through now, and the gradient to do it with."""

    step: int
    gradient: Tensor | None  #: dL/d value of that step; None: zero
    labels: int  #: how many its window has


class Interface:
    """Base class, and the contract of all interfaces."""

    #: True if targets are given before the interface is asked, False if after; `needs` says which.
    targets_first = False

    #: True if it learns from a loss of its own when it is asked, and not from targets.
    learns_when_asked = False

    #: Summed loss in nats and counted labels of the last step, where the interface measures it.
    measured: tuple[float, int] | None = None

    #: Nats per label of the last step, of a loss of the stage's own in the place of the network's; None: it has none.
    local_loss: float | None = None

    #: How many steps old the newest target was when it was learned from: what `gradient` answers is as far behind.
    staleness = 0

    @property
    def learner(self) -> nn.Module | None:
        """The module that learns here, and that a new run may begin with; None: there is none."""
        return None

    @property
    def ready(self) -> bool:
        """False while the stage should not move yet (its predictor is warming up)."""
        return True

    def required_step(self, step: int) -> int | None:
        """The step whose target is waited for before `due` is asked at `step`; None: whatever has come."""
        return step

    def ready_steps(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        """The windows to go back through once `value` has left at `step`: that one, unless gradients are late."""
        return [ReadyStep(step, self.gradient(step, value, labels), count_rows(labels))]

    def on_skip(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        """In the place of `due` where the stage does not go back at `step`: nothing is due."""
        return []

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        """dL/dvalue for the value that left at `step`, L summed over batch and time; None stands for zero.

        `over` (B,) bool marks rows of a state whose sequence ends here: their gradient is known to be zero.
        """
        raise NotImplementedError

    def recompute(self, value: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor | None:
        """dL/dvalue of a window that is run again; `answer` is what `gradient` answered at its step."""
        return answer

    def predict(self, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        """What `gradient` would answer out of itself, with nothing remembered or changed; None: it predicts nothing."""
        return None

    def evaluation_outputs(self, value: Tensor, labels: Tensor) -> Judgement | None:
        """In validation: what the stage is judged by; None: by nothing."""
        return None

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        """Take the target gradient of the value that left at `step`; `labels` (B, L) if they were not known then."""

    def means(self) -> dict[str, float | None]:
        """Of the run so far: predictor_loss, cosine, staleness, as far as the interface measures them."""
        return {}

    def take_recent(self) -> dict[str, float | None]:
        """The same since the last call."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


class ZeroInterface(Interface):
    """Nothing flows back across this cut."""

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        return None


class TrueInterface(Interface):
    """The true gradient: whoever calls `gradient` must have given its target before."""

    targets_first = True

    def __init__(self) -> None:
        self._arrived: dict[int, Tensor] = {}

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        if step not in self._arrived:
            raise ValueError(f"the true gradient of step {step} was asked for before it had arrived")
        return self._arrived.pop(step)

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        require_target(step, gradient)
        self._arrived[step] = gradient
