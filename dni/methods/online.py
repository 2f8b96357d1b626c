"""The past exactly, by traces that are carried from window to window; the future as zero, or predicted."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from dni.errors import ConfigError
from dni.interfaces.base import Interface, ZeroInterface
from dni.methods.base import DepthMethod
from dni.methods.cut import TimeCutContext
from dni.methods.synthetic_in_time import SyntheticInTime
from dni.plugin import RunContext
from dni.ranges import zero_or_more
from dni.recurrent import Chain
from dni.stages.base import Stage
from dni.stages.online import OnlineStage, traced_layers
from dni.time_targets.base import Bootstrap

Future = enum.Enum("Future", ["spatial", "synthetic"])


@dataclass
class Online(SyntheticInTime):
    """Real-time recurrent learning of layers with a diagonal recurrence (Zucchet et al. 2023, arXiv 2305.15947).

    What a layer's own weights did before the window gets its exact credit. What a lower layer did to the states of the
    layers above it needs the gradient of these states at a window's end: zero, or that of the predictor in the section
    `predictor.time`.
    """

    future: Future = Future.spatial  # gradient of the states at a window's end, which layers below a recurrent one
    # learn from. spatial: zero; synthetic: predicted, as with time=synthetic
    trace_decay: float = zero_or_more(1.0)  # [factor] on the carried traces after an optimizer step, at most 1: traces
    # belong to the weights before it. 0: no past is left, as with time=truncated

    name: ClassVar[str] = "online"

    @property
    def predicts(self) -> bool:  # type: ignore[override]
        """Whether the predictor of `predictor.time` is used."""
        return self.future is Future.synthetic

    def interface(self, cut: TimeCutContext) -> Interface:
        return super().interface(cut) if self.predicts else ZeroInterface()

    def targets(self, cut: TimeCutContext, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
        return super().targets(cut, stage, depth, time) if self.predicts else Bootstrap()

    def learners(self, cut: TimeCutContext) -> dict[str, nn.Module]:
        return super().learners(cut) if self.predicts else {}

    def stage(
        self, depth: DepthMethod, module: nn.Module, optimizer: torch.optim.Optimizer, *, last: bool, **settings: Any
    ) -> Stage:
        plain = depth.stage(module, optimizer, last=last, **settings)
        own = {"first": plain.first, "trace_decay": self.trace_decay}
        return OnlineStage(module, optimizer, **{**settings, **own})

    def check_module(self, module: Chain) -> None:
        """Raise UsageError if the past of a layer with a state cannot be carried."""
        traced_layers(module)

    def check(self, run: RunContext) -> None:
        if self.predicts:
            super().check(run)
        else:
            super(SyntheticInTime, self).check(run)
        if self.trace_decay > 1:
            raise ConfigError(
                f"time.trace_decay={self.trace_decay} would let traces grow: set 1, which keeps them, or less"
            )
        if type(_stage_of(run.depth)) is not Stage:
            raise ConfigError(
                f"depth={run.depth.name} has stages of its own, and so has time={self.name}: use depth=backprop, "
                "synthetic or local (or time=truncated)"
            )
        if run.compile:
            raise ConfigError(
                f"compile=true hides the pre-activations that time={self.name} needs: set compile=false (or use "
                "time=truncated)"
            )
        if run.evaluate.probe is not None:
            raise ConfigError(
                f"evaluate.probe={run.evaluate.probe} does not see what time={self.name} carries from window to "
                "window: set evaluate.probe=null"
            )


def _stage_of(depth: DepthMethod) -> Stage:
    """Build a small stage, to see of what class a method in depth makes them."""
    module = nn.Linear(1, 1)
    return depth.stage(module, torch.optim.SGD(module.parameters(), 0.1), last=False, first=False)
