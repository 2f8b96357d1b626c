"""Interfaces return the gradient at a cut.

A value (an activation in depth, a packed state in time) leaves a stage, which needs its gradient. An interface has two
main methods: `gradient(step, value, labels)` returns the gradient to use at once, and `target(step, gradient)` takes
the target gradient when it arrives later.

    ZeroInterface        no gradient: truncated backpropagation through time
    TrueInterface        the true gradient, for stages that wait for it: locked backpropagation
    LossInterface        the gradient of the loss at the end of the network
    DecoupledInterface   a predicted gradient, trained when its target arrives (`dni.interfaces.synthetic`)
    LocalInterface       the gradient of a local loss (`dni.interfaces.local`)
    DelayedInterface     the true gradient of an earlier window (`dni.interfaces.delayed`)
    CorrectedInterface   a predicted gradient, and what it lacked when its target arrives (`dni.interfaces.corrected`)
    ReconstructionInterface  the same, and a reconstruction of the stage's input (`dni.interfaces.reconstruction`)
    InterfaceWrapper     wraps one of these and changes some of it (`dni.interfaces.wrapper`)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from dni.loss_function import Judgement
from dni.losses import count_rows
from dni.metrics.fit import FitMeter
from dni.misuse import require_target
from dni.named_tensors import Value


class ReadyStep(NamedTuple):
    """A window whose backward pass is due, with its gradient."""

    step: int
    gradient: Tensor | None  #: dL/d value of that step; None: zero
    labels: int  #: number of labels of the window


class Correction(NamedTuple):
    """A further gradient of a window that the stage has already gone back through."""

    step: int
    gradient: Tensor  #: added to the dL/d value that was used at that step
    reply: float  #: factor on the resulting dL/d input, which is then sent back; 0: nothing is sent


class Interface:
    """Base class of all interfaces."""

    #: True if `gradient` needs targets that arrived before the call, False if targets arrive after it. `required_step`
    #: says which target the stage waits for.
    targets_first = False

    #: True if the interface learns from a loss of its own in `gradient`, and not from targets.
    learns_when_asked = False

    #: `gradient` returns a prediction, which a probe can compare with the exact gradient.
    predicts = False

    #: Summed loss in nats and number of counted labels at the last step, if the interface measures them.
    measured: tuple[float, int] | None = None

    #: Local loss of the last step, in nats per label, if the stage trains on a local loss; None otherwise.
    local_loss: float | None = None

    #: Returns the number of a window's labels, by which the stage divides the parameter gradients.
    count: Callable[[Tensor], int] = staticmethod(count_rows)

    #: Age in steps of the newest target when the interface learned from it.
    staleness = 0

    @property
    def learners(self) -> dict[str, nn.Module]:
        """The modules that learn here and that a new run may start from.

        By the place of their weights in `state_dict`, as keys joined by dots: "predictor", or "inner.predictor".
        """
        return {}

    @property
    def fit_meter(self) -> FitMeter | None:
        """Sums over the whole run of how well a model fits its targets; None: the interface has no such model."""
        return None

    @property
    def ready(self) -> bool:
        """False while the stage must not update yet, because its predictor warms up."""
        return True

    def take_input(self, value: Value) -> None:
        """Take the stage's input of the window whose output comes next. Ignored unless a subclass uses it."""

    def required_step(self, step: int) -> int | None:
        """Return the step whose target must arrive before `ready_steps(step, ...)`; None: do not wait."""
        return step

    def ready_steps(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        """Return the windows whose backward pass is due once `value` has left at `step`.

        That is the window of `step` itself, unless gradients are late.
        """
        return [ReadyStep(step, self.gradient(step, value, labels), self.count(labels))]

    def corrections(self, step: int) -> list[Correction]:
        """Return the corrections to add to the update of `step`; call it after `ready_steps`.

        The stage must keep the windows of their steps (`dni.stages.correcting`).
        """
        return []

    def on_skip(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        """Replace `ready_steps` at a step without a backward pass of the stage. By default no window is due."""
        return []

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        """Return dL/dvalue for the value that left at `step`, with L summed over batch and time; None means zero.

        `done` (B,) bool marks rows of a state whose sequence ends here: their gradient is zero.
        """
        raise NotImplementedError

    def recompute(self, value: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor | None:
        """Return dL/dvalue of a recomputed window; `answer` is the result of `gradient` at its step."""
        return answer

    def predict(self, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        """Return the gradient that the interface predicts, without side effects; None: it predicts nothing."""
        return None

    def evaluation_outputs(self, value: Tensor, labels: Tensor) -> Judgement | None:
        """Return loss and accuracy of the stage's output in validation; None: it has none."""
        return None

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        """Take the target gradient of the value that left at `step`, and `labels` (B, L) that were unknown then."""

    def means(self) -> dict[str, float | None]:
        """Return means over the run of predictor_loss, cosine and staleness, if the interface measures them."""
        return {}

    def take_recent(self) -> dict[str, float | None]:
        """Return the same means since the last call of this method."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""


class ZeroInterface(Interface):
    """No gradient crosses this cut."""

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor | None:
        return None


class TrueInterface(Interface):
    """The true gradient. Call `target` with it before `gradient`."""

    targets_first = True

    def __init__(self) -> None:
        self._arrived: dict[int, Tensor] = {}

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        if step not in self._arrived:
            raise ValueError(f"the true gradient of step {step} has not arrived: call target({step}, ...) first")
        return self._arrived.pop(step)

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        require_target(step, gradient)
        self._arrived[step] = gradient
