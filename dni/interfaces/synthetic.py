"""The decoupled neural interface (Jaderberg et al. 2017): a synthetic gradient at once, its target later."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import DivergedError, UsageError
from dni.interfaces.base import Interface, ReadyStep
from dni.interfaces.pending import PendingPrediction
from dni.metrics.fit import FitMeter, cosine
from dni.misuse import REFUSALS, explain, misfit, refuse_below, refuse_optimizer, require_target
from dni.predictors.base import Predictor
from dni.rng import without_dropout


class DecoupledInterface(Interface):
    """Return a synthetic gradient at once, and train the predictor when the target arrives.

    Args:
        predictor: the model of the gradient.
        optimizer: updates the predictor's parameters; default Adam with learning rate 3e-3.
        warmup: predictor updates before the stage may update (`ready`).
        memory: largest number of values kept until their targets arrive; the oldest is dropped first.
        steps_per_target: optimizer steps of the predictor per target.
        scale: factor on the synthetic gradient that the network receives; the predictor is trained without it.
        clip: largest norm of the predictor's parameter gradients; None does not clip.
        staleness_decay: a; the loss on a target that is s steps late is multiplied by (1 + s)^-a. Only useful for
            predictors with an immediate loss (`Predictor.known`): Adam ignores the scale of a single loss.
        expects: says whether the target of a step will arrive; other values are not kept. None: all will.
    """

    predicts = True

    def __init__(
        self,
        predictor: Predictor,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        warmup: int = 0,
        memory: int = 64,
        steps_per_target: int = 1,
        scale: float = 1.0,
        clip: float | None = None,
        staleness_decay: float = 0.0,
        expects: Callable[[int], bool] | None = None,
    ) -> None:
        if not isinstance(predictor, Predictor):
            raise UsageError(
                f"a {type(predictor).__name__} is not a dni.Predictor: use dni.Regressor, say, or subclass one"
            )
        refuse_below(1, memory=memory, steps_per_target=steps_per_target)
        refuse_below(0, warmup=warmup)
        self.predictor, self.expects = predictor, expects
        parameters = list(predictor.parameters())  # none for an oracle, which is not trained
        if optimizer is not None and parameters:
            refuse_optimizer(predictor, optimizer)
        self.optimizer = optimizer or (torch.optim.Adam(parameters, 3e-3, fused=True) if parameters else None)
        self.warmup, self.memory, self.steps_per_target = warmup, memory, steps_per_target
        self.scale, self.clip, self.staleness_decay = scale, clip, staleness_decay
        self.updates = 0
        self.total, self.recent = FitMeter(), FitMeter()
        self._pending: dict[int, PendingPrediction] = {}
        self._latest = 0  # the newest step

    @property
    def learners(self) -> dict[str, nn.Module]:
        return {"predictor": self.predictor}

    @property
    def fit_meter(self) -> FitMeter:
        return self.total

    @property
    def ready(self) -> bool:
        return self.updates >= self.warmup

    @property
    def device(self) -> torch.device:
        """The predictor's device; the CPU for an oracle, which has no parameters."""
        return next((p.device for p in self.predictor.parameters()), torch.device("cpu"))

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """Keep the value and its labels, and return the synthetic gradient. Do not write to the value afterwards.

        `done` rows get zero, and the predictor does not learn from them. Raise UsageError for a value or labels that
        the predictor cannot take.
        """
        pending = PendingPrediction.of(value, labels, done)
        self._keep(step, pending)
        try:
            learned = self.predictor.learn(pending.value, pending.labels)
            answer = self._predicted(pending, value) if learned is None else self._whole(learned, pending, value)
        except REFUSALS as error:
            explain(error, step, misfit(self.predictor, pending.value, pending.labels))
        if learned is None:
            self._learn_immediate_loss(pending)
        elif self.optimizer is not None:
            self._step()
        return answer

    def on_skip(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        """Keep the value: the next stage may run at this step, and send its target."""
        pending = PendingPrediction.of(value, labels, None)
        self._keep(step, pending)
        self._learn_immediate_loss(pending)
        return []

    def predict(self, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        with without_dropout(self.predictor):
            return self._predicted(PendingPrediction.of(value, labels, done), value)

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        """Train the predictor on the value of `step`. Ignore a step without a kept value.

        `labels` follow those that were given with the value. Raise UsageError for a target that is None or has not the
        value's shape.
        """
        require_target(step, gradient)
        pending = self._pending.pop(step, None)
        if pending is None:
            return
        target, labels = pending.select(gradient), pending.with_labels(labels)
        require_target(step, target, pending.value)
        self.staleness = self._latest - step
        self._learn(step, pending.value, labels, target)
        self.updates += 1

    def means(self) -> dict[str, float | None]:
        return self.total.means()

    def take_recent(self) -> dict[str, float | None]:
        recent, self.recent = self.recent, FitMeter()
        return recent.means()

    def state_dict(self) -> dict[str, Any]:
        return {
            "predictor": self.predictor.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "updates": self.updates,
            "latest": self._latest,
            "sent": {str(step): vars(pending) for step, pending in self._pending.items()},
            "staleness": self.staleness,
            "meters": [{**vars(self.total)}, {**vars(self.recent)}],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.predictor.load_state_dict(state["predictor"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.updates, self._latest, self.staleness = state["updates"], state["latest"], state.get("staleness", 0)
        self._pending = {int(step): PendingPrediction(**kept).to(self.device) for step, kept in state["sent"].items()}
        self.total, self.recent = (FitMeter(**sums) for sums in state.get("meters", ({}, {})))

    def _keep(self, step: int, pending: PendingPrediction) -> None:
        self._latest = step
        if len(pending.value) and (self.expects is None or self.expects(step)):
            self._pending[step] = pending
        while len(self._pending) > self.memory:
            del self._pending[min(self._pending)]

    def _learn(self, step: int, value: Tensor, labels: Tensor | None, target: Tensor) -> None:
        """Fit the predictor to the target of a value that left at `step`."""
        for n in range(self.steps_per_target if self.predictor.fits else 0):
            fit = self.predictor.fit(value, labels, target)
            self._optimize(self._fit_loss(fit.loss) * (1 + self.staleness) ** -self.staleness_decay)
            if n == 0:
                self._measure(step, fit.loss.item(), fit.prediction.detach(), target)

    def _fit_loss(self, newest: Tensor) -> Tensor:
        """Return the loss that an optimizer step of the predictor minimises; `newest` is that of the new target."""
        return newest

    def _learn_immediate_loss(self, pending: PendingPrediction) -> None:
        loss = self.predictor.known(pending.value, pending.labels)
        if loss is not None:
            self._optimize(loss)

    @torch.no_grad()
    def _predicted(self, pending: PendingPrediction, value: Tensor) -> Tensor:
        return self._whole(self.predictor(pending.value, pending.labels), pending, value)

    def _whole(self, prediction: Tensor, pending: PendingPrediction, value: Tensor) -> Tensor:
        """Return the scaled prediction, with zeros for rows that have none."""
        if self.scale != 1:
            prediction = prediction * self.scale
        if pending.rows is None:
            return prediction
        whole = torch.zeros_like(value)
        whole[pending.rows] = prediction
        return whole

    def _optimize(self, loss: Tensor) -> None:
        """Take one optimizer step of the predictor."""
        if self.optimizer is None:
            return
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._step()

    def _step(self) -> None:
        assert self.optimizer is not None
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), self.clip)
        self.optimizer.step()

    def _measure(self, step: int, loss: float, prediction: Tensor, target: Tensor) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the predictor's loss for step {step} is {loss}: lower its learning rate, or clip gradients"
            )
        similarity = cosine(prediction, target)
        for meter in (self.total, self.recent):
            meter.updates += 1
            meter.loss += loss
            meter.cosine += similarity
            meter.staleness += self._latest - step
