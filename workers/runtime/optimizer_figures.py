"""What the optimizers of one stage report: the learning rate, and the gradient norm before clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dni.stages.base import Stage


def optimizer_figures(parts: Sequence[Stage]) -> dict[str, float | None]:
    """`learning_rate` and `gradient_norm` of the parts of the model that one stage holds.

    The rate is that of this step by the schedule, before late gradients shorten it (`optimizer.staleness`). The norm is
    that of the newest optimizer step, of the mean gradient over all parts, before clipping; None before the first one.
    """
    rate = float(parts[0].optimizer.param_groups[0]["lr"]) if parts else None
    norms = [part.gradient_norm for part in parts if part.gradient_norm is not None]
    return {"learning_rate": rate, "gradient_norm": math.hypot(*norms) if norms else None}
