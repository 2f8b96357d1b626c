"""A synthetic gradient at once, and a share of what it lacked when its target arrives: a control variate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dni.interfaces.agreement import Agreement
from dni.interfaces.base import Correction
from dni.interfaces.synthetic import DecoupledInterface
from dni.losses import count_rows, squared_distance
from dni.misuse import refuse_below, require_target
from dni.predictors.base import Predictor


@dataclass
class UsedGradient:
    """The synthetic gradient that a stage used at a step, and what is known of its errors."""

    gradient: Tensor
    rows: int  #: number of labels of the step
    order: int = 0  #: number of targets that have arrived for this step
    seen: Tensor | None = None  #: mean of the newest residual that was applied before this step (`Agreement`)


class CorrectedInterface(DecoupledInterface):
    """Return a synthetic gradient at once, and its residual when the target arrives.

    At step t the stage takes one update with

        J_t^T g_t + sum_s beta (1 + t - s)^-a J_s^T r_s,    r_s = target_s - g_s,

    where g_t is the synthetic gradient, J_s the Jacobian of the output of step s with respect to the stage's weights,
    and s runs over the steps whose targets have arrived since step t - 1. The target is bootstrapped as in
    `DecoupledInterface`: the next stage's own synthetic gradient, pulled back to its input. It is late by one edge,
    however many stages follow, and it trains the predictor as well. g_s is a control variate of target_s: with beta = 1
    the stage applies exactly the target, in two parts (Grathwohl et al. 2018, arXiv 1711.00123, in time instead of in
    expectation).

    With lambda > 0 the correction goes upstream too: `Correction.reply` is chosen so that lambda J_s^T r_s is sent,
    with J_s the Jacobian with respect to the stage's input. There it is a second residual of the same step, and so on
    up to `orders`. With beta = lambda = 1 and as many orders as edges to the loss, the residuals of a step add up to
    the true gradient; if no target is late, that is backpropagation. With beta = 0 this is `DecoupledInterface`.

    A residual is applied late, so a large beta overshoots: residuals then point against those that were applied before
    their windows ran. With an `Agreement`, beta is multiplied by its share, which falls when they do.

    Args:
        predictor: the model of the gradient.
        optimizer: updates the predictor's parameters.
        beta: weight of a residual.
        decay: a, the exponent of its age in steps.
        lambda_: weight of a residual that is sent on; 0 at the first stage.
        orders: most residuals of a step.
        every: correct only steps that are multiples of this.
        agreement: the law of beta; None: beta is constant.
        lag: wait at step t for the targets of step t - lag; None takes those that have arrived.
        history: steps, with the newest one, whose windows the stage keeps (`CorrectingStage`).
        settings: those of `DecoupledInterface`.
    """

    targets_first = True
    learns_when_asked = True

    def __init__(
        self,
        predictor: Predictor,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        beta: float = 0.3,
        decay: float = 0.0,
        lambda_: float = 0.0,
        orders: int = 1,
        every: int = 1,
        agreement: Agreement | None = None,
        lag: int | None = None,
        history: int = 64,
        **settings: Any,
    ) -> None:
        super().__init__(predictor, optimizer, **settings)
        refuse_below(1, orders=orders, every=every, history=history)
        refuse_below(0, lag=lag)
        self.beta, self.decay, self.lambda_, self.orders = beta, decay, lambda_, orders
        self.every, self.agreement, self.lag, self.history = every, agreement, lag, history
        self._rows = 1  # labels of the newest step
        self._used: dict[int, UsedGradient] = {}
        self._arrived: list[tuple[int, Tensor]] = []  # targets, in order of arrival
        self._residuals: list[tuple[int, int, Tensor]] = []  # (step, order, residual) for the corrections of this step

    def required_step(self, step: int) -> int | None:
        return None if self.lag is None else step - self.lag

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        """Keep a target until `gradient` is called. The second one of a step is its second residual, and so on."""
        require_target(step, gradient)
        self._arrived.append((step, gradient))

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """Return the synthetic gradient as `DecoupledInterface` does, and learn from the targets that have arrived."""
        answer = super().gradient(step, value, labels, done)
        self._rows = 1 if labels is None else count_rows(labels)
        seen = None if self.agreement is None else self.agreement.newest
        newest = UsedGradient(answer, self._rows, seen=seen)
        self._used[step] = newest  # before learning: its target is there if nothing is late
        self._used = {s: used for s, used in self._used.items() if s > step - self.history and s % self.every == 0}
        arrived, self._arrived = self._arrived, []
        for earlier, target in arrived:
            self._learn_from(earlier, target.to(answer.device))
        if not self.ready:  # the stage does not move, so that there is nothing to correct
            self._used, self._residuals = {}, []
            self.agreement = None if self.agreement is None else Agreement()
        return answer

    def corrections(self, step: int) -> list[Correction]:
        residuals, self._residuals = self._residuals, []
        return [self._correction(step, *each) for each in residuals] if self.beta else []

    def state_dict(self) -> dict[str, Any]:
        used = {str(step): dict(vars(each)) for step, each in self._used.items()}
        own = {} if self.agreement is None else {"agreement": {**vars(self.agreement)}}
        return {**super().state_dict(), "used": used, "arrived": list(self._arrived), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._used = {int(step): UsedGradient(**used) for step, used in state["used"].items()}
        for used in self._used.values():
            used.gradient = used.gradient.to(self.device)
        if self.agreement is not None:
            self.agreement = Agreement(**state["agreement"])
        self._arrived, self._residuals = [(step, target) for step, target in state["arrived"]], []

    def _learn_from(self, step: int, target: Tensor) -> None:
        used = self._used.get(step)
        if used is None or not used.order:
            super().target(step, target)
        if used is not None and used.order < self.orders:
            used.order += 1
            residual = target - used.gradient if used.order == 1 else target
            if used.order == 1 and not self.predictor.fits:
                self._measure(step, squared_distance(used.gradient, target).item(), used.gradient, target)
            if used.order == 1 and self.agreement is not None:
                self.agreement.compare(residual, used.seen)
            self._residuals.append((step, used.order, residual))

    def _correction(self, now: int, step: int, order: int, residual: Tensor) -> Correction:
        share = 1.0 if self.agreement is None else self.agreement.share
        weight = self.beta * share * (1 + now - step) ** -self.decay
        scale = weight * self._rows / self._used[step].rows  # the update divides by the labels of its own step
        return Correction(step, scale * residual, self.lambda_ / scale if order < self.orders else 0.0)
