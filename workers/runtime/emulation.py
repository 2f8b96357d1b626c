"""An emulated accelerator: passes that take at least so long, whatever this machine's cores can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from dni.interfaces.base import Interface, ZeroInterface
from dni.stages.base import Stage
from workers.config.schema import EmulateConfig

P = ParamSpec("P")
R = TypeVar("R")


def lasting(call: Callable[P, R], ms: float) -> Callable[P, R]:
    """The call, asleep until it has taken `ms` milliseconds; 0: the call itself."""
    if not ms:
        return call

    @wraps(call)
    def paced(*args: P.args, **kwargs: P.kwargs) -> R:
        until = time.monotonic() + ms / 1000
        result = call(*args, **kwargs)
        time.sleep(max(0.0, until - time.monotonic()))
        return result

    return paced


def slow_down(settings: EmulateConfig, stage: Stage, depth: Interface, time_cut: Interface) -> None:
    """Make a stage's passes, and the updates of what is at its cuts, last as the settings say."""
    learns = "ready_steps" if depth.learns_when_asked else "target"
    timed: list[tuple[object, str, float]] = [
        (stage, "forward", settings.forward_ms), (stage, "backward", settings.backward_ms),
        (depth, learns, settings.cut_ms),
    ]  # fmt: skip
    if not isinstance(time_cut, ZeroInterface):
        timed.append((time_cut, "target", settings.cut_ms))
    for owner, name, ms in timed:
        setattr(owner, name, lasting(getattr(owner, name), ms))
