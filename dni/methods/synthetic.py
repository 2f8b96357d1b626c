"""Synthetic gradients: a model predicts the gradient at the cut, and the stage updates at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dni.interfaces.base import Interface
from dni.methods.base import DepthMethod
from dni.methods.cut import CutContext


@dataclass
class Synthetic(DepthMethod):
    """A predicted gradient now, its target later: decoupled neural interfaces (Jaderberg et al. 2017).

    The predictor is that of the section `predictor.depth`.
    """

    name: ClassVar[str] = "synthetic"
    late: ClassVar[bool] = True
    predicts: ClassVar[bool] = True
    takes_gaps: ClassVar[bool] = True

    def interface(self, cut: CutContext) -> Interface:
        return cut.predicted(self.memory)

    def learners(self, cut: CutContext) -> dict[str, nn.Module]:
        return {"predictor": cut.build()}

    @property
    def memory(self) -> int:
        """How many values wait for targets: those in flight, that of this step, and one on its way."""
        return self.max_in_flight + 2
