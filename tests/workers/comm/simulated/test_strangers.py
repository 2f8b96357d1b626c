"""Strangers who connect and send changed frames, or repeat a stage's, while two stages open and use a link."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from tests.support.fuzzing.mutations import inputs
from tests.support.simulated.link import ADDRESS, Outcome, Run
from tests.support.simulated.network import Weather
from tests.support.simulated.plan import Plan
from workers.comm.frame import Kind

_PLAN = Plan(
    seed=0,
    window=2,
    steps=12,
    checkpoint_every=5,
    lag=1,
    replies=1,
    compute_s=0.5,
    weather=Weather(cuts=2, outage_s=1.0),
    reconnect_s=200.0,
    timeout_s=10_000.0,
)
_STRANGERS = 40


def _run(seed: int) -> Outcome:
    run = Run(replace(_PLAN, seed=seed))
    run.settings = replace(run.settings, secret=b"the secret of this run, not theirs")
    said = inputs(seed)
    for _ in range(_STRANGERS):
        draw = run.scheduler.random
        items: list[Any] = [("message", data) for data in islice(said, draw.randint(1, 3))]
        items += [("finish",)] * draw.randint(0, 1)
        run.scheduler.at(draw.uniform(0, 6), partial(run.network.speak, ADDRESS, items))
    return run.go()


def test_strangers_who_say_anything_change_nothing() -> None:
    for seed in range(15):
        outcome = _run(seed)
        assert outcome.errors == {"previous": None, "next": None}
        assert outcome.received == [*_PLAN.frames()]
        assert [step for step, _, _ in outcome.targets] == [step for kind, step in _PLAN.frames() if kind is Kind.STEP]
