"""Figures of the optimizers of one stage: the learning rate, and the gradient norm before clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dni.stages.base import Stage


def optimizer_figures(parts: Sequence[Stage]) -> dict[str, float | None]:
    """Return `learning_rate` and `gradient_norm` of the parts of the model that one stage holds.

    The rate is the schedule's for this step, before `optimizer.staleness` reduces it. The norm is that of the mean
    gradient of all parts at the newest optimizer step, before clipping; None before the first step.
    """
    rate = float(parts[0].optimizer.param_groups[0]["lr"]) if parts else None
    norms = [part.gradient_norm for part in parts if part.gradient_norm is not None]
    return {"learning_rate": rate, "gradient_norm": math.hypot(*norms) if norms else None}
