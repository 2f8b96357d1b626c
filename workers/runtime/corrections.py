"""Corrections of earlier windows' gradients, within the update of a step."""

from __future__ import annotations

from functools import partial
from operator import mul

from dni.interfaces.base import Correction
from dni.named_tensors import map_tensors
from dni.stages.base import Stage
from workers.comm.frame import Frame
from workers.comm.upstream import Upstream
from workers.runtime.feed import Feed
from workers.runtime.forward_unlocked import ForwardUnlocked


def replying(corrections: list[Correction]) -> bool:
    """Return whether one of them sends something to the previous stage."""
    return any(one.reply for one in corrections)


def correct(
    stage: Stage, upstream: Upstream | Feed | ForwardUnlocked, frame: Frame, corrections: list[Correction]
) -> None:
    """Go back again through the windows of the corrections, adding to the parameter gradients, and empty the list.

    Drop a correction of a window that stayed behind when the model was cut elsewhere.
    """
    while corrections:
        one = corrections.pop(0)
        if not stage.keeps(one.step):
            continue
        activation = stage.backward(one.gradient, None, one.step).activation
        if one.reply:
            share = map_tensors(partial(mul, one.reply), activation)
            upstream.finish(frame, share, late=frame.step - one.step, more=replying(corrections))
