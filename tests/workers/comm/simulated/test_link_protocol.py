"""The protocol of gRPC links over thousands of simulated networks: nothing is lost, repeated, reordered or stuck.

Each seed is a run of its own (`tests.support.simulated`). `make chaos-sim` runs further seeds, or repeats one.
"""

from __future__ import annotations

import pytest

from tests.support.simulated import faults
from tests.support.simulated.faults import Fault, assert_found, planted
from tests.support.simulated.link import Outcome, check
from tests.support.simulated.plan import draw

_PART = 200


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(8))
def test_every_seed_keeps_what_a_link_guarantees(part: int) -> None:
    plans = [draw(seed) for seed in range(part * _PART, (part + 1) * _PART)]
    outcomes = [check(plan) for plan in plans]
    assert _happened(outcomes) >= {"cut", "made anew", "sent again", "replayed", "lost"}
    assert {plan.survives for plan in plans} == {True, False}


def _happened(outcomes: list[Outcome]) -> set[str]:
    """Return what has happened in at least ten of the runs."""
    found = {
        "cut": [each.cuts for each in outcomes],
        "made anew": [each.reconnects for each in outcomes],
        "sent again": [each.sent_again for each in outcomes],
        "replayed": [each.replays for each in outcomes],
        "lost": [any(each.errors.values()) for each in outcomes],
    }
    return {name for name, counts in found.items() if sum(map(bool, counts)) >= 10}


def test_a_seed_repeats_its_run_exactly() -> None:
    for seed in range(20):
        assert repr(check(draw(seed))) == repr(check(draw(seed)))


@pytest.mark.parametrize(
    ("planted_faults", "most_seeds", "message"),
    [
        ([faults.UNACKNOWLEDGED], 5, "an end keeps"),
        ([faults.SENT_TOO_MUCH, faults.TAKEN_TWICE], 20, "frames were repeated"),
        ([faults.SENT_TOO_LITTLE], 20, "frames were lost|next_sequence is"),
        ([faults.OLD_CONNECTION], 100, "ended the link or is gone|next_sequence is"),
    ],
)
def test_a_planted_fault_is_found(planted_faults: list[Fault], most_seeds: int, message: str) -> None:
    with planted(*planted_faults):
        assert_found(lambda seed: check(draw(seed)), most_seeds, message)


def test_frames_that_are_sent_again_without_need_are_dropped() -> None:
    with planted(faults.SENT_TOO_MUCH):
        assert sum(check(draw(seed)).sent_again for seed in range(50)) >= 10
