"""Lambda-returns in depth: targets mixed with the true gradient when that has come back through all stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dni.errors import ConfigError
from dni.experimental.lambda_return_stage import LambdaReturnStage
from dni.methods.synthetic import Synthetic
from dni.plugin import RunContext
from dni.ranges import zero_or_more
from dni.stages.base import Stage


@dataclass
class LambdaReturn(Synthetic):
    """Synthetic gradients whose targets are lambda-returns along the depth of the network (`LambdaReturnStage`)."""

    lambda_depth: float = zero_or_more(0.5)  # [share] m: a stage replies with 1 - m of its prediction and m of its
    # own target, when that has arrived. With depth.lag=n a target is n steps late per edge between its cut
    # and the loss, n (K - 1) at the first cut, and depth.max_in_flight is shared among the edges, as with depth=delayed

    name: ClassVar[str] = "lambda_return"
    named_tensors: ClassVar[bool] = False
    takes_gaps: ClassVar[bool] = False

    def stage(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, last: bool, **settings: Any) -> Stage:
        if last or settings["first"]:
            return Stage(module, optimizer, **settings)
        return LambdaReturnStage(module, optimizer, mix=self.lambda_depth, memory=self.memory, **settings)

    def in_flight(self, stages: int) -> int:
        """Return an even share of W, as a stage keeps its windows until their targets arrive."""
        return self.max_in_flight // (stages - 1)

    def check(self, run: RunContext) -> None:
        super().check(run)
        edges, late = run.stages - 1, self.lag or 0
        if not 0 < self.lambda_depth <= 1:
            raise ConfigError(
                f"depth.lambda_depth={self.lambda_depth} must be above 0 and at most 1, where every target starts from "
                "the loss (or use depth=synthetic, where each starts from the next prediction)"
            )
        if self.max_in_flight < (late + 1) * edges:
            raise ConfigError(
                f"depth=lambda_return shares depth.max_in_flight={self.max_in_flight} among {edges} edges, on each of "
                f"which a target may be {late} late: set depth.max_in_flight={(late + 1) * edges} or more (or use "
                "depth=synthetic)"
            )
