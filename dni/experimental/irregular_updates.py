"""Stages that update at random steps (Jaderberg et al. 2017, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dni.errors import ConfigError
from dni.methods.base import DepthMethod
from dni.methods.local import Local
from dni.methods.synthetic import Synthetic
from dni.plugin import RunContext
from dni.ranges import above_zero
from dni.rng import happens


@dataclass
class IrregularUpdates(DepthMethod):
    """Base class: at each step, each stage draws whether it goes back and updates. It always runs forward."""

    update_probability: float = above_zero(0.5)  # [probability] of a stage to update at a step; if it does not, it
    # only passes its output on

    @property
    def updates_every_step(self) -> bool:
        return self.update_probability == 1

    def updates(self, seed: int, stage: int, step: int) -> bool:
        return happens(self.update_probability, seed, stage, step)

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.update_probability > 1:
            raise ConfigError(
                f"depth.update_probability={self.update_probability} must be at most 1, with which every stage updates "
                "at every step"
            )


@dataclass
class IrregularSynthetic(IrregularUpdates, Synthetic):
    """Synthetic gradients with irregular updates: a predictor learns from the steps at which the next stage updates."""

    name: ClassVar[str] = "irregular"


@dataclass
class IrregularLocal(IrregularUpdates, Local):
    """Local losses with irregular updates."""

    name: ClassVar[str] = "irregular_local"
