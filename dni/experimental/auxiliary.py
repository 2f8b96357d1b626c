"""The auxiliary task of a recurrent network: predict the synthetic gradient at the end of the next window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.interfaces.base import Interface
from dni.interfaces.synthetic import DecoupledInterface
from dni.methods.cut import TimeCutContext
from dni.methods.synthetic_in_time import SyntheticInTime
from dni.plugin import RunContext
from dni.predictors.base import Predictor
from dni.predictors.regressor import Regressor
from dni.ranges import zero_or_more
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap, PastWindow, StateTarget


@dataclass
class AuxiliaryTask(SyntheticInTime):
    """Synthetic gradients in time, and a loss of predicting the next synthetic gradient (`Auxiliary`).

    The head of the auxiliary task sees the state alone. It is trained like the predictor.
    """

    auxiliary: float = zero_or_more(0.1)  # [weight] of the auxiliary task
    hidden: int = zero_or_more(256)  # [units] of the hidden layer of its head; 0: the head is linear

    name: ClassVar[str] = "auxiliary"
    several_windows: ClassVar[bool] = True

    def targets(self, cut: TimeCutContext, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
        regressor = Regressor(cut.shape[0], hidden=self.hidden).to(cut.device)
        head = cut.decoupled(DecoupledInterface, regressor, memory=1, scale=1.0, expects=None)
        return Auxiliary(head, self.auxiliary)

    def check(self, run: RunContext) -> None:
        super().check(run)
        if run.predictor.time.awaited_labels:
            raise ConfigError(
                "time=auxiliary needs the target of every window at once, and predictor="
                f"{run.predictor.time.name} waits for labels: use predictor=critic or predictor=mlp (or time=synthetic)"
            )


class Auxiliary(Bootstrap):
    """Bootstrapped targets, and in them the gradient of the auxiliary loss  c |a(s_{t-1}) - g_t|^2.

    A second head a predicts the synthetic gradient g_t at a window's end from the state s_{t-1} that enters it
    (Jaderberg et al. 2017, section 2.1). g_t is known only after the backward pass of the window that s_{t-1} comes
    from. The gradient of the loss with respect to s_{t-1} is therefore added to the target of the cut t-1, as if it
    were a loss of window t. It reaches the network through the synthetic gradient, so each window still has one
    backward pass. Rows whose sequence starts or ends with the window do not count.

    Args:
        head: predicts g_t from s_{t-1} without labels; its optimizer and number of steps are its own.
        weight: c.
    """

    def __init__(self, head: DecoupledInterface, weight: float) -> None:
        self.head, self.weight = head, weight
        self._entering: Tensor | None = None

    def targets(self, window: PastWindow, gradient: Tensor | None) -> list[StateTarget]:
        """Return the target of the cut before the window, then fit the head."""
        entering, self._entering = self._entering, window.state
        future = window.state_gradient
        if entering is None or gradient is None or future is None:
            return super().targets(window, gradient)
        done = window.reset.to(entering.device) | window.done
        extra = auxiliary_gradient(self.head.predictor, entering, future, done, self.weight)
        self.head.gradient(window.step, entering, None, done)
        self.head.target(window.step, future)
        return super().targets(window, gradient + extra)

    def state_dict(self) -> dict[str, Any]:
        return {"head": self.head.state_dict(), "entering": self._entering}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self._entering = state["entering"]
        if self._entering is not None:
            device = next(self.head.predictor.parameters()).device
            self._entering = self._entering.to(device)


def auxiliary_gradient(head: Predictor, state: Tensor, synthetic: Tensor, done: Tensor, weight: float) -> Tensor:
    """Return the gradient of the auxiliary loss with respect to the state (B, F) that enters a window:

        d/ds_{t-1} of  weight |a(s_{t-1}) - g_t|^2,  summed over features and the rows that are not `done` (B,)

    for a head a that predicts the synthetic gradient at the window's end (Jaderberg et al. 2017, section 2.1: the
    prediction of future synthetic gradients as an auxiliary task). g_t is a constant here.
    """
    leaf = state.detach().requires_grad_()
    with torch.enable_grad():
        distance = (head(leaf, None) - synthetic).pow(2).sum(-1)
        loss = weight * distance.masked_fill(done, 0.0).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient
