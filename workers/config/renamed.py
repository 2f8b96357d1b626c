"""Settings of earlier versions, and what to write instead."""

from __future__ import annotations

#: By the name that a setting had.
RENAMED = {
    "depth.method": "depth=NAME, or depth._target_=MODULE.CLASS",
    "optimizer.decay_steps": "optimizer.schedule.decay_steps",
    "optimizer.final": "optimizer.schedule.final",
    "optimizer.kind": "optimizer=NAME, or optimizer._target_=MODULE.CLASS",
    "optimizer.schedule": "optimizer/schedule=NAME, or optimizer.schedule._target_=MODULE.CLASS",
    "optimizer.warmup_steps": "optimizer.schedule.warmup_steps",
    "transport.kind": "transport=NAME, or transport._target_=MODULE.CLASS",
    "predictor.depth.mix": "depth=lambda_return depth.lambda_depth=SHARE",
}


def now_written(name: str) -> str:
    """How a setting of an earlier version is written now, to be put after a refusal; empty for any other name."""
    return f" (it is written {RENAMED[name]} now)" if name in RENAMED else ""
