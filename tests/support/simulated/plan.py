"""Draws what happens in a simulated run: the frames, the network and the death of a process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.support.simulated.network import Weather
from workers.comm.frame import Kind

Stage = Literal["previous", "next"]

#: Longest simulated seconds of a run whose link survives; a timeout that is reached by mistake takes longer.
_UNTIL_S = 1000.0


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    window: int  #: frames in flight
    steps: int
    checkpoint_every: int  #: steps
    lag: int | None  #: steps
    replies: int  #: to one step: 1 or 2
    compute_s: float  #: longest time of a stage between two frames
    weather: Weather
    reconnect_s: float
    timeout_s: float
    killed: Stage | None = None
    killed_at: float = 0.0
    until_s: float = _UNTIL_S

    @property
    def survives(self) -> bool:
        """Whether everything must come to a good end."""
        return self.killed is None and self.weather.dies_at is None and (self.reconnect_s > 0 or not self.weather.cuts)

    def frames(self) -> Iterator[tuple[Kind, int]]:
        """Yield kind and step of the frames that the previous stage sends."""
        for step in range(self.steps):
            yield Kind.STEP, step
            if (step + 1) % self.checkpoint_every == 0:
                yield Kind.CHECKPOINT, step
        yield Kind.END, self.steps


def draw(seed: int) -> Plan:
    """Return the plan of a seed. Three of four links survive; the others lose the network or a process."""
    draw = random.Random(seed)
    window = draw.randint(1, 5)
    fatal = draw.random() < 0.25
    network_dies = fatal and draw.random() < 0.3
    return Plan(
        seed=seed,
        window=window,
        steps=draw.randint(3, 16),
        checkpoint_every=draw.choice([3, 5, 100]),
        lag=draw.choice([None, *range(window)]),
        replies=draw.choice([1, 1, 2]),
        compute_s=draw.choice([0.0, 0.05, 1.0]),
        weather=_weather(draw, draw.uniform(0, 8) if network_dies else None),
        reconnect_s=draw.choice([0.0, 15.0]) if fatal else 200.0,
        timeout_s=60.0 if fatal else 10 * _UNTIL_S,
        killed=draw.choice(("previous", "next")) if fatal and not network_dies else None,
        killed_at=draw.choice([draw.uniform(0, 0.3), draw.uniform(0, 8)]),
    )


def _weather(draw: random.Random, dies_at: float | None) -> Weather:
    return Weather(
        connect_s=draw.choice([0.01, 0.3, 6.0]),
        room=draw.choice([1, 2, 8]),
        stall_s=draw.choice([0.5, 8.0]),
        stalls=draw.choice([0.0, 0.05, 0.3]),
        cuts=draw.choice([0, 1, 3, 8]),
        cut_within=draw.choice([4, 10, 40]),
        outage_s=draw.choice([0.0, 0.5, 5.0]),
        silence_s=draw.choice([0.0, 1.0, 10.0]),
        dies_at=dies_at,
        replays=draw.choice([0.0, 0.0, 0.5]),
    )
