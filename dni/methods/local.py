"""Local losses: each stage learns from a classifier of its own, and no gradient is sent back."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import nn

from dni.errors import ConfigError
from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.local import LocalInterface, local_head
from dni.methods.base import DepthMethod
from dni.methods.cut import CutContext
from dni.plugin import RunContext
from dni.predictors.head_settings import HeadSettings
from dni.ranges import zero_or_more
from dni.stages.autocast import autocast_calls
from dni.stages.base import Stage


@dataclass
class Local(DepthMethod):
    """Decoupled greedy learning (Belilovsky et al. 2019, arXiv 1901.08164).

    With a head as `predictor`, this head is the classifier, trained at the rate of the section `predictor.depth`.
    """

    hidden: int = zero_or_more(0)  # [units] of the classifier's hidden layer; 0: it is linear, or
    # predictor=norm_head, block_head or copied_head is the classifier
    learning_rate: float = zero_or_more(3e-3)  # [rate] of the classifier's own Adam

    name: ClassVar[str] = "local"
    predicts: ClassVar[bool] = True
    takes_gaps: ClassVar[bool] = True

    def interface(self, cut: CutContext) -> Interface:
        if not cut.rows:
            return ZeroInterface()  # no labels belong to these rows
        head = cut.head()
        found = LocalInterface(
            math.prod(cut.shape) if head is None else cut.shape[0], classes=cut.classes, hidden=self.hidden,
            head=head, device=cut.device,
            learning_rate=self.learning_rate if head is None else cut.predictor.learning_rate,
            function=cut.loss if cut.loss.numbers else None,
        )  # fmt: skip
        autocast_calls(found.head, cut.autocast, "forward")
        cut.scheduled(found.optimizer)
        return found

    def stage(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, last: bool, **settings: Any) -> Stage:
        return Stage(module, optimizer, **{**settings, "first": True})  # no stage sends a gradient back

    def learners(self, cut: CutContext) -> dict[str, nn.Module]:
        if not cut.rows:
            return {}
        return {"head": cut.head() or local_head(math.prod(cut.shape), cut.classes, self.hidden)}

    def check(self, run: RunContext) -> None:
        super().check(run)
        settings = run.predictor.depth
        if isinstance(settings, HeadSettings):
            if self.hidden:
                raise ConfigError(
                    f"depth.hidden={self.hidden} is of the method's own classifier, which "
                    f"predictor={settings.name} replaces: set depth.hidden=0 (or predictor=critic)"
                )
            return
        usual = {each.name: each.default for each in fields(settings)}
        hidden = getattr(settings, "hidden", None)
        if hidden != usual.get("hidden") and run.resume is None:
            raise ConfigError(
                f"predictor.depth.hidden={hidden} has no effect with depth={self.name}, whose classifier is not the "
                f"predictor: set depth.hidden={hidden} (and leave out predictor.depth.hidden)"
            )
