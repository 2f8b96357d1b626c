"""Heartbeats in the store of a process group tell which rank is silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch.distributed import HashStore

from tests.support.commands import wait_for
from workers.runtime.pipeline import process_group
from workers.runtime.pipeline.roll_call import RollCall

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

TIMEOUT_S = 1.0  # ten heartbeats


@pytest.fixture
def ranks() -> Iterator[list[RollCall]]:
    store = HashStore()
    calls = [RollCall(store, rank, 4, TIMEOUT_S, hosted=True) for rank in range(4)]
    yield calls
    for call in calls:
        call.end()


def test_a_rank_without_heartbeats_is_silent_for_all_others(ranks: list[RollCall]) -> None:
    assert [call.silent() for call in ranks] == [None] * 4
    ranks[2].end()
    others = [ranks[rank] for rank in (0, 1, 3)]
    wait_for(lambda: {call.silent() for call in others} == {2}, "stage 2 is silent", within=30)


def test_the_silent_rank_is_named_and_not_the_one_waited_for(
    ranks: list[RollCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "_roll_call", ranks[0])
    with pytest.raises(process_group.PeerTimeout, match=r"^stage 1 is silent for longer than transport\.timeout_s: "):
        lose()
    ranks[2].end()
    wait_for(lambda: ranks[0].silent() == 2, "stage 2 is silent", within=30)
    with pytest.raises(process_group.PeerTimeout, match=r"^stage 2 is silent: is its process stopped"):
        lose()


def lose() -> None:
    """Time out in a wait for stage 1."""
    with process_group.lost_neighbours("stage 1"):
        raise RuntimeError("[gloo] Timed out waiting 1000ms for recv operation to complete")


def test_a_store_without_answers_means_that_stage_0_is_silent(
    ranks: list[RollCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks[1], "_checked", ranks[1]._checked - 60)
    ranks[1].end()
    monkeypatch.setattr(ranks[1], "_checked", ranks[1]._checked - 60)
    assert ranks[1].silent() == 0
    monkeypatch.setattr(ranks[1], "_hosted", False)
    assert ranks[1].silent() is None
