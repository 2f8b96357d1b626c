"""Corrected synthetic gradients: a prediction now, and a share of its error when the target arrives."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dni.errors import ConfigError
from dni.interfaces.agreement import Agreement
from dni.interfaces.base import Interface
from dni.interfaces.corrected import CorrectedInterface
from dni.methods.cut import CutContext
from dni.methods.synthetic import Synthetic
from dni.models.base import TiedKind
from dni.plugin import RunContext
from dni.ranges import one_or_more, zero_or_more
from dni.stages.base import Stage
from dni.stages.correcting import CorrectingStage

BetaLaw = enum.Enum("BetaLaw", ["constant", "agreement"])


@dataclass
class Corrected(Synthetic):
    """As `Synthetic`; the error of a prediction is applied when its target arrives (`CorrectedInterface`).

    The predictor is that of the section `predictor.depth`.
    """

    beta: float = zero_or_more(0.3)  # [weight] of errors of earlier predictions in an update; 0: as depth=synthetic
    beta_decay: float = zero_or_more(0.0)  # [exponent] a: multiply beta by (1 + s)^-a for an error that is s steps late
    beta_law: BetaLaw = BetaLaw.constant  # factor on beta. constant: 1; agreement: it falls while errors point against
    # corrections that were applied before their windows ran, and rises to 1 while they agree
    correct_every: int = one_or_more(1)  # [steps] correct only the predictions of every so many steps
    correction_lambda: float = zero_or_more(0.0)  # [weight] of an error that is also sent to the previous stage; 0:
    # nothing more is sent; 1 adds up to the true gradient
    orders: int = one_or_more(1)  # [orders] errors of one step that a stage applies: 1 its own, 2 also that of the next
    # stage, which comes one edge later, and so on; above 1 with correction_lambda
    stash: bool = True  # apply an error at the weights and activations of its step, of which as many are kept as steps
    # it is late; false: at today's weights, where the window is run again

    name: ClassVar[str] = "corrected"
    named_tensors: ClassVar[bool] = False

    def interface(self, cut: CutContext) -> Interface:
        if not self.beta:
            return super().interface(cut)
        return cut.decoupled(
            CorrectedInterface,
            memory=self.memory,
            beta=self.beta,
            decay=self.beta_decay,
            lambda_=self.correction_lambda if cut.index else 0.0,
            orders=self.orders,
            every=self.correct_every,
            agreement=Agreement() if self.beta_law is BetaLaw.agreement else None,
            lag=self.lag,
            history=self.history,
        )

    def stage(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, last: bool, **settings: Any) -> Stage:
        if last or not self.beta:
            return super().stage(module, optimizer, last=last, **settings)
        return CorrectingStage(
            module, optimizer, memory=self.history, every=self.correct_every, stash=self.stash, **settings
        )

    @property
    def history(self) -> int:
        """How many windows a stage keeps: every further order may be late by one more edge."""
        return (self.max_in_flight if self.lag is None else self.lag) * self.orders + 1

    @property
    def most_replies(self) -> int:
        return max(2, self.orders)

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.correction_lambda > 1:
            raise ConfigError(
                f"depth.correction_lambda={self.correction_lambda} must be at most 1, where the errors of a step add "
                "up to that of the true gradient"
            )
        if bool(self.correction_lambda) != (self.orders > 1):
            raise ConfigError(
                f"depth.correction_lambda={self.correction_lambda} and depth.orders={self.orders} do not go together: "
                "set depth.correction_lambda=0 depth.orders=1, or both above that (depth.orders=2, say)"
            )
        if self.correction_lambda and not self.beta:
            raise ConfigError(
                f"depth.correction_lambda={self.correction_lambda} sends on errors that depth.beta=0 ignores: set "
                "depth.beta=0.3, say (or depth.correction_lambda=0 depth.orders=1)"
            )
        if self.correction_lambda and (run.model.tied is TiedKind.sum or run.optimizer.over_all_stages):
            raise ConfigError(
                f"depth.correction_lambda={self.correction_lambda} sends further replies, to which model.tied=sum and "
                "optimizer.clip_norm=global add nothing: set depth.correction_lambda=0 depth.orders=1"
            )
