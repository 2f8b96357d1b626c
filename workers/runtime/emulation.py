"""Emulate an accelerator: passes take a minimum time, independent of this machine's speed."""

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
    """Wrap a call so that it sleeps until `ms` milliseconds have passed; with 0 return it unchanged."""
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
    """Give a stage's passes, and the updates at its cuts, the minimum times of the settings."""
    learns = "ready_steps" if depth.learns_when_asked else "target"
    timed: list[tuple[object, str, float]] = [
        (stage, "forward", settings.forward_ms), (stage, "backward", settings.backward_ms),
        (depth, learns, settings.cut_ms),
    ]  # fmt: skip
    if not isinstance(time_cut, ZeroInterface):
        timed.append((time_cut, "target", settings.cut_ms))
    for owner, name, ms in timed:
        setattr(owner, name, lasting(getattr(owner, name), ms))
