"""Settings of the predictors at the cuts in time, between windows."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from dni.errors import ConfigError
from dni.plugin import RunContext
from dni.predictors import soft_label_critic
from dni.predictors.base import Predictor
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.predictors.settings import PredictorContext, TimePredictor
from dni.ranges import one_or_more, zero_or_more

Context = enum.Enum("Context", ["none", "window", "future_labels"])


@dataclass
class Critic(TimePredictor):
    """A small classifier of the next labels; the gradient of its loss is the synthetic gradient (`SoftmaxCritic`)."""

    hidden: int = zero_or_more(0)  # [units] of the hidden layer; critic: 0 for a linear classifier
    gradient_weight: float = zero_or_more(1.0)  # [weight] of the squared distance to the target gradient
    future_labels: int = one_or_more(1)  # [labels] L, number of labels after the window
    counted_labels: int | None = one_or_more(None)  # [labels] modelled by a head each: the first so many of these L
    # that count. A label at a sequence's end takes one head, and L at least its distance. null: a head for each of L

    name: ClassVar[str] = "critic"

    @property
    def context_labels(self) -> int:
        return self.future_labels

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return SoftmaxCritic(
            shape[0],
            classes=classes,
            future_labels=self.future_labels,
            counted=self.counted_labels,
            hidden=self.hidden,
            gradient_weight=self.gradient_weight,
        )

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.counted_labels is not None:
            self._check_counted(self.counted_labels, run)

    def _check_counted(self, counted: int, run: RunContext) -> None:
        if run.data.is_text:
            raise ConfigError(
                f"predictor.time.counted_labels={counted} leaves out labels that do not count, and all of "
                f"data={run.data.name} count: set predictor.time.future_labels={counted} (and leave out "
                "predictor.time.counted_labels)"
            )
        if counted > self.future_labels:
            raise ConfigError(
                f"predictor.time.counted_labels={counted} of the next predictor.time.future_labels="
                f"{self.future_labels} are not there: set predictor.time.future_labels={counted} or more"
            )


@dataclass
class SoftLabelCritic(TimePredictor):
    """A critic that predicts the next labels from the last inputs, and learns when these labels are known."""

    hidden: int = zero_or_more(0)  # [units] of the hidden layer of both models; 0: a linear critic
    gradient_weight: float = zero_or_more(1.0)  # [weight] of the squared distance to the target gradient
    future_labels: int = one_or_more(1)  # [labels] L, number of labels after the window
    history: int = one_or_more(32)  # [symbols] H, number of inputs up to the end of the window

    name: ClassVar[str] = "soft_label_critic"

    @property
    def context_inputs(self) -> int:
        return self.history

    @property
    def awaited_labels(self) -> int:
        return self.future_labels

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return soft_label_critic.SoftLabelCritic(
            shape[0], classes=classes, future_labels=self.future_labels, inputs=context.inputs, history=self.history,
            hidden=self.hidden, gradient_weight=self.gradient_weight,
        )  # fmt: skip


@dataclass
class Linear(TimePredictor):
    """A linear map from the state and its context to the gradient (`Regressor`)."""

    context: Context = Context.none  # input besides the state: nothing (none), the last `history` inputs (window), or
    # the next labels (future_labels)
    future_labels: int = one_or_more(1)  # [labels] L, number of labels after the window
    history: int = one_or_more(32)  # [symbols] H, number of inputs up to the end of the window

    name: ClassVar[str] = "linear"

    @property
    def context_labels(self) -> int:
        return self.future_labels if self.context is Context.future_labels else 0

    @property
    def context_inputs(self) -> int:
        return self.history if self.context is Context.window else 0

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return self._regressor(shape[0], 0, classes, context)

    def _regressor(self, features: int, hidden: int, classes: int, context: PredictorContext) -> Predictor:
        seen, symbols = self.context_inputs or self.context_labels, context.inputs if self.context_inputs else classes
        return Regressor(features, hidden=hidden, classes=symbols if seen else 0, future_labels=max(1, seen))


@dataclass
class Mlp(Linear):
    """A model with one hidden layer from the state and its context to the gradient (`Regressor`)."""

    hidden: int = one_or_more(256)  # [units] of the hidden layer

    name: ClassVar[str] = "mlp"

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return self._regressor(shape[0], self.hidden, classes, context)
