"""A synthetic gradient now, and its target later: the decoupled neural interface (Jaderberg et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import DivergedError, UsageError
from dni.interfaces.base import Interface, ReadyStep
from dni.interfaces.pending import PendingPrediction
from dni.metrics import FitMeter, cosine
from dni.misuse import REFUSALS, explain, misfit, refuse_below, refuse_optimizer, require_target
from dni.predictors.base import Predictor
from dni.rng import without_dropout


class DecoupledInterface(Interface):
    """A synthetic gradient now; one regression step of the predictor when its target arrives.

    Args:
        predictor: the model of the gradient.
        optimizer: updates the predictor's parameters; default Adam with learning rate 3e-3.
        warmup: predictor updates before the stage may move (`ready`).
        steps_per_target: optimizer steps of the predictor per target.
        scale: factor on the predicted gradient that the network receives; the predictor is fitted without it.
        clip: largest norm of the predictor's parameter gradients; None does not clip.
        memory: how many sent values are remembered; the oldest is given up for a newer one.
        staleness_decay: a; what a target teaches that is s steps late counts (1 + s)^-a. For predictors that learn
            something else at once (`Predictor.known`), beside which it can count for less: Adam is blind to the scale
            of a whole.
        expects: whether the target of a step will come at all; the value of a step whose will not is not remembered.
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
                f"a {type(predictor).__name__} is no dni.Predictor: take dni.Regressor, say, or subclass one"
            )
        refuse_below(1, memory=memory, steps_per_target=steps_per_target)
        refuse_below(0, warmup=warmup)
        self.predictor, self.expects = predictor, expects
        parameters = list(predictor.parameters())  # an oracle has none, and is not trained
        if optimizer is not None and parameters:
            refuse_optimizer(predictor, optimizer)
        self.optimizer = optimizer or (torch.optim.Adam(parameters, 3e-3, fused=True) if parameters else None)
        self.warmup, self.memory, self.steps_per_target = warmup, memory, steps_per_target
        self.scale, self.clip, self.staleness_decay = scale, clip, staleness_decay
        self.updates = 0
        self.total, self.recent = FitMeter(), FitMeter()
        self._sent: dict[int, PendingPrediction] = {}
        self._latest = 0

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
        """Where the predictor is; an oracle has no parameters, and is said to be on the CPU."""
        return next((p.device for p in self.predictor.parameters()), torch.device("cpu"))

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        """Remember the value (nobody may write to it any more) and its labels; return the predicted gradient.

        Rows that are `over` get exactly zero, and teach the predictor nothing. Raises UsageError for a value or labels
        that the predictor is not made for.
        """
        sent = PendingPrediction.of(value, labels, done)
        self._remember(step, sent)
        try:
            answer = self._answer(sent, value)
        except REFUSALS as error:
            explain(error, step, misfit(self.predictor, sent.value, sent.labels))
        self._learn_at_once(sent)
        return answer

    def on_skip(self, step: int, value: Tensor, labels: Tensor) -> list[ReadyStep]:
        """The value is remembered: its target may come, for the next stage decides for itself."""
        sent = PendingPrediction.of(value, labels, None)
        self._remember(step, sent)
        self._learn_at_once(sent)
        return []

    def predict(self, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        with without_dropout(self.predictor):
            return self._answer(PendingPrediction.of(value, labels, done), value)

    def target(self, step: int, gradient: Tensor, labels: Tensor | None = None) -> None:
        """Train the predictor on the value of `step`; a step that is unknown, used or given up is ignored.

        `labels` are put after those that were given with the value. Raises UsageError for a target that is None, or
        not of the value's shape.
        """
        require_target(step, gradient)
        sent = self._sent.pop(step, None)
        if sent is None:
            return
        target, labels = sent.mine(gradient), sent.known(labels)
        require_target(step, target, sent.value)
        self.staleness = self._latest - step
        self._learn(step, sent.value, labels, target)
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
            "sent": {str(step): vars(s) for step, s in self._sent.items()},
            "staleness": self.staleness,
            "meters": [{**vars(self.total)}, {**vars(self.recent)}],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.predictor.load_state_dict(state["predictor"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.updates, self._latest, self.staleness = state["updates"], state["latest"], state.get("staleness", 0)
        self._sent = {int(step): PendingPrediction(**s).to(self.device) for step, s in state["sent"].items()}
        self.total, self.recent = (FitMeter(**sums) for sums in state.get("meters", ({}, {})))

    def _remember(self, step: int, sent: PendingPrediction) -> None:
        self._latest = step
        if len(sent.value) and (self.expects is None or self.expects(step)):
            self._sent[step] = sent
        while len(self._sent) > self.memory:
            del self._sent[min(self._sent)]

    def _learn(self, step: int, value: Tensor, labels: Tensor | None, target: Tensor) -> None:
        """Fit the predictor to the target of a value that left at `step`."""
        for n in range(self.steps_per_target):
            fit = self.predictor.fit(value, labels, target)
            self._improve(self._fit_loss(fit.loss) * (1 + self.staleness) ** -self.staleness_decay)
            if n == 0:
                self._measure(step, fit.loss.item(), fit.prediction.detach(), target)

    def _fit_loss(self, newest: Tensor) -> Tensor:
        """What one step of the predictor lowers; `newest` is its loss of the target that has come."""
        return newest

    def _learn_at_once(self, sent: PendingPrediction) -> None:
        known = self.predictor.known(sent.value, sent.labels)
        if known is not None:
            self._improve(known)

    @torch.no_grad()
    def _answer(self, sent: PendingPrediction, value: Tensor) -> Tensor:
        prediction: Tensor = self.predictor(sent.value, sent.labels)
        if self.scale != 1:
            prediction = prediction * self.scale
        if sent.rows is None:
            return prediction
        whole = torch.zeros_like(value)
        whole[sent.rows] = prediction
        return whole

    def _improve(self, loss: Tensor) -> None:
        """One step of the predictor."""
        if self.optimizer is None:
            return
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
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
