"""Delayed gradients: a stage runs ahead, and goes back through a step when its true gradient arrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dni.errors import ConfigError
from dni.interfaces.base import Interface
from dni.interfaces.delayed import DelayedInterface
from dni.methods.base import DepthMethod
from dni.methods.cut import CutContext
from dni.plugin import RunContext
from dni.stages.base import Stage
from dni.stages.weight_stashing import StashingStage


@dataclass
class Delayed(DepthMethod):
    """Asynchronous pipeline training with late, true gradients (PipeDream, Narayanan et al. 2019).

    With `optimizer.accumulate=m`, a gradient that is d windows late crosses at most ceil(d / m) optimizer steps, thus
    one if m >= d (Elam et al. 2026, arXiv 2606.07881).
    """

    stash: bool = True  # go back with the weights of the forward pass: W copies, or two with accumulate=W (as in
    # PipeDream-2BW); false: with today's, a window is run again when its gradient comes

    name: ClassVar[str] = "delayed"
    late: ClassVar[bool] = True

    def interface(self, cut: CutContext) -> Interface:
        return DelayedInterface(cut.stages - 1 - cut.index, self.lag)

    def stage(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, last: bool, **settings: Any) -> Stage:
        if last:
            return Stage(module, optimizer, **settings)
        return StashingStage(module, optimizer, stash=self.stash, **settings)

    def in_flight(self, stages: int) -> int:
        """Return an even share of W, as a stage keeps a window until it has crossed all later edges."""
        return self.max_in_flight // (stages - 1)

    def check(self, run: RunContext) -> None:
        super().check(run)
        edges, each = run.stages - 1, max(1, self.lag or 0)
        if self.max_in_flight < each * edges:
            raise ConfigError(
                f"depth=delayed shares depth.max_in_flight={self.max_in_flight} among {edges} edges, on each of which "
                f"a step may be {each} late: set depth.max_in_flight={each * edges} or more"
            )
        if run.time.answers:
            raise ConfigError(
                f"depth=delayed goes back too late for time={run.time.name}: use time=truncated (or depth=synthetic)"
            )
