"""Settings of the predictors of a state's gradient at the end of a window."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from dni.predictors import soft_label_critic
from dni.predictors.base import Predictor
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.predictors.settings import PredictorContext, TimePredictor
from dni.ranges import one_or_more, zero_or_more

Context = enum.Enum("Context", ["none", "window", "lookahead"])


@dataclass
class Critic(TimePredictor):
    """A small classifier of the next labels, whose loss has the synthetic gradient (`SoftmaxCritic`)."""

    hidden: int = zero_or_more(0)  # [units] of the hidden layer; critic: 0 for a linear classifier
    gradient_weight: float = zero_or_more(1.0)  # [weight] of the squared distance to the target gradient
    lookahead: int = one_or_more(1)  # [labels] L, after the window

    name: ClassVar[str] = "critic"

    @property
    def future_labels(self) -> int:
        return self.lookahead

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return SoftmaxCritic(
            shape[0],
            classes=classes,
            lookahead=self.lookahead,
            hidden=self.hidden,
            gradient_weight=self.gradient_weight,
        )


@dataclass
class SoftLabelCritic(TimePredictor):
    """A critic that predicts the next labels from the last inputs, and learns once they have come."""

    hidden: int = zero_or_more(0)  # [units] of the hidden layer of both models; 0: none
    gradient_weight: float = zero_or_more(1.0)  # [weight] of the squared distance to the target gradient
    lookahead: int = one_or_more(1)  # [labels] L, after the window
    history: int = one_or_more(32)  # [symbols] H, of the input up to the end of the window

    name: ClassVar[str] = "soft_label_critic"

    @property
    def past_inputs(self) -> int:
        return self.history

    @property
    def awaited_labels(self) -> int:
        return self.lookahead

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return soft_label_critic.SoftLabelCritic(
            shape[0], classes=classes, lookahead=self.lookahead, inputs=context.inputs, history=self.history,
            hidden=self.hidden, gradient_weight=self.gradient_weight,
        )  # fmt: skip


@dataclass
class Linear(TimePredictor):
    """A linear map from the state, and what is seen beside it, to the gradient (`Regressor`)."""

    context: Context = Context.none  # beside the state: nothing, the last `history` inputs, the next `lookahead` labels
    lookahead: int = one_or_more(1)  # [labels] L, after the window
    history: int = one_or_more(32)  # [symbols] H, of the input up to the end of the window

    name: ClassVar[str] = "linear"

    @property
    def future_labels(self) -> int:
        return self.lookahead if self.context is Context.lookahead else 0

    @property
    def past_inputs(self) -> int:
        return self.history if self.context is Context.window else 0

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return self._regressor(shape[0], 0, classes, context)

    def _regressor(self, features: int, hidden: int, classes: int, context: PredictorContext) -> Predictor:
        seen, symbols = self.past_inputs or self.future_labels, context.inputs if self.past_inputs else classes
        return Regressor(features, hidden=hidden, classes=symbols if seen else 0, lookahead=max(1, seen))


@dataclass
class Mlp(Linear):
    """One hidden layer from the state, and what is seen beside it, to the gradient (`Regressor`)."""

    hidden: int = one_or_more(256)  # [units] of the hidden layer

    name: ClassVar[str] = "mlp"

    def build(self, shape: tuple[int, ...], classes: int, context: PredictorContext) -> Predictor:
        return self._regressor(shape[0], self.hidden, classes, context)
