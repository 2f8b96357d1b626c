"""What the process of a stage finds set."""

from __future__ import annotations

import os

import pytest

from tests.runs import tiny
from workers.processes import environment


@pytest.mark.parametrize(("threads", "policy"), [(1, None), (2, "PASSIVE")])
def test_stages_that_share_cores_wait_asleep(threads: int, policy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    found = environment(tiny(stages=4, launch={"torch_threads": threads}))
    assert found.get("OMP_WAIT_POLICY") == policy


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    found = environment(tiny(stages=4, launch={"torch_threads": 64}))
    assert found["OMP_WAIT_POLICY"] == "ACTIVE"
