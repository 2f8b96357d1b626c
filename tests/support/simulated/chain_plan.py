"""Draws what happens to three simulated stages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.simulated.network import Weather
from workers.comm.frame import Kind

STAGES = 3
_UNTIL_S = 1000.0


@dataclass(frozen=True)
class ChainPlan:
    """One run; times are in simulated seconds."""

    seed: int
    window: int  #: frames in flight on each edge
    steps: int
    checkpoint_every: int  #: steps
    compute_s: float  #: longest time of a stage for a frame
    weather: Weather
    reconnect_s: float
    kills: tuple[tuple[float, int], ...]  #: when which stage is killed, if it may be
    notice_s: float  #: longest time until the supervisor notices
    start_s: float  #: longest time until the stage has started again
    timeout_s: float = 10 * _UNTIL_S
    until_s: float = _UNTIL_S

    def frames(self) -> Iterator[tuple[Kind, int]]:
        """Yield kind and step of the frames that the first stage sends."""
        for step in range(1, self.steps + 1):
            yield Kind.STEP, step
            if step % self.checkpoint_every == 0:
                yield Kind.CHECKPOINT, step
        yield Kind.END, self.steps


def draw_chain(seed: int) -> ChainPlan:
    """Return the plan of a seed."""
    draw = random.Random(seed)
    steps, compute_s = draw.randint(5, 25), draw.choice([0.05, 0.5])
    cuts = draw.choice([0, 0, 3])
    lasts_s = steps * compute_s
    return ChainPlan(
        seed=seed,
        window=draw.randint(1, 4),
        steps=steps,
        checkpoint_every=draw.choice([3, 100]),
        compute_s=compute_s,
        weather=Weather(
            stalls=draw.choice([0.0, 0.1]),
            stall_s=1.0,
            cuts=cuts,
            outage_s=draw.choice([0.0, 1.0]),
            silence_s=draw.choice([0.0, 5.0]),
        ),
        reconnect_s=200.0 if cuts else draw.choice([0.0, 2.0, 200.0]),
        kills=tuple((draw.uniform(0, lasts_s), draw.randint(1, STAGES - 1)) for _ in range(draw.randint(1, 3))),
        notice_s=draw.choice([0.01, 5.0]),
        start_s=draw.choice([0.01, 5.0]),
    )
