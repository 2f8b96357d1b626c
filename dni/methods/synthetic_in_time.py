"""Synthetic gradients in time: a model predicts dL/d state of the windows that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dni.errors import ConfigError
from dni.interfaces.base import Interface
from dni.methods.cut import TimeCutContext
from dni.methods.in_time import TimeMethod
from dni.plugin import RunContext
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap
from dni.time_targets.deferred import DeferredTargets


@dataclass
class SyntheticInTime(TimeMethod):
    """A predicted gradient at every window's end, its target from the next window (Jaderberg et al. 2017).

    The predictor is that of the section `predictor.time`.
    """

    name: ClassVar[str] = "synthetic"
    predicts: ClassVar[bool] = True
    takes_gaps: ClassVar[bool] = True

    #: A target needs several windows in a row.
    several_windows: ClassVar[bool] = False

    def interface(self, cut: TimeCutContext) -> Interface:
        return cut.predicted(self.waiting(cut) + 1)

    def waiting(self, cut: TimeCutContext) -> int:
        """Return the number of windows until the target of a state is known."""
        return max(1, -(-cut.predictor.awaited_labels // cut.window))

    def targets(self, cut: TimeCutContext, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
        awaited = cut.predictor.awaited_labels
        return DeferredTargets(awaited) if awaited else Bootstrap()

    def learners(self, cut: TimeCutContext) -> dict[str, nn.Module]:
        return {"predictor": cut.build()}

    def check(self, run: RunContext) -> None:
        super().check(run)
        predictor = run.predictor.time
        if not run.depth.updates_every_step and (self.several_windows or predictor.awaited_labels):
            raise ConfigError(
                f"depth={run.depth.name} leaves windows out, and targets in time that are made from several windows "
                "would miss them: use time=synthetic, and predictor=critic or predictor=mlp"
            )
