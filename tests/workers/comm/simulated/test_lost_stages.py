"""Stages that are killed and start again alone, on simulated networks: nothing comes twice, the missing is counted.

Each seed is a run of its own (`tests.support.simulated`). `make chaos-sim` runs further seeds, or repeats one.
"""

from __future__ import annotations

import pytest

from tests.support.simulated import faults
from tests.support.simulated.chain import check_chain
from tests.support.simulated.chain_plan import STAGES, draw_chain
from tests.support.simulated.faults import Fault, assert_found, planted

_PART = 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(3))
def test_every_seed_keeps_what_lasting_edges_guarantee(part: int) -> None:
    chains = [check_chain(draw_chain(seed)) for seed in range(part * _PART, (part + 1) * _PART)]
    lives = [life for chain in chains for life in chain.lives]
    assert sum(chain.kills for chain in chains) >= 30
    assert sum(life.missed > 0 for life in lives) >= 30
    assert sum(life.skipped > 0 for life in lives) >= 30
    assert sum(chain.ended_whole for chain in chains) <= 15  # lost as the stage before it sent its last frame


def test_a_seed_repeats_its_run_exactly() -> None:
    for seed in range(10):
        first, second = (check_chain(draw_chain(seed)) for _ in range(2))
        assert (first.scheduler.now, first.scheduler.switches) == (second.scheduler.now, second.scheduler.switches)
        assert [life.steps for life in first.lives] == [life.steps for life in second.lives]


def test_a_chain_without_kills_takes_every_step_at_every_stage() -> None:
    plan = draw_chain(0)
    chain = check_chain(type(plan)(**{**vars(plan), "kills": ()}))
    assert [life.steps for life in chain.lives] == [[*range(1, plan.steps + 1)]] * STAGES


@pytest.mark.parametrize(
    ("fault", "message"),
    [(faults.NUMBERS_GO_ON, "frames were repeated"), (faults.NOT_COUNTED, "stage [01]: .* skipped")],
)
def test_a_planted_fault_is_found(fault: Fault, message: str) -> None:
    with planted(fault):
        assert_found(lambda seed: check_chain(draw_chain(seed)), 20, message)
