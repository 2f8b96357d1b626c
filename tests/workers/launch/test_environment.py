"""The environment of a stage's process."""

from __future__ import annotations

import os

import pytest

from tests.support.runs import tiny
from workers.launch.supervisor import PATIENT, environment


@pytest.mark.parametrize(("threads", "policy", "spins"), [(1, None, None), (2, "PASSIVE", "1000")])
def test_stages_that_share_cores_sleep_while_waiting(
    threads: int, policy: str | None, spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PATIENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    found = environment(tiny(stages=4, launch={"torch_threads": threads}))
    assert (found.get("OMP_WAIT_POLICY"), found.get("GOMP_SPINCOUNT")) == (policy, spins)


@pytest.mark.parametrize(
    ("name", "other"), [("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"), ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")]
)
def test_users_environment_wins(name: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "ACTIVE" if name == "OMP_WAIT_POLICY" else "7")
    found = environment(tiny(stages=4, launch={"torch_threads": 64}))
    assert (found[name], other in found) == (os.environ[name], False)
