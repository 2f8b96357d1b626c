"""An emulated accelerator takes its time, and changes nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.runs import assert_same, parameters_of, tiny
from workers.launch.launcher import launch
from workers.runtime.emulation import lasting


def test_a_call_lasts_at_least_so_long_and_returns_what_it_returned() -> None:
    started = time.monotonic()
    assert lasting(lambda a, b=0: a + b, 20)(1, b=2) == 3
    assert time.monotonic() - started >= 0.02


def test_a_call_that_takes_longer_is_not_made_longer() -> None:
    started = time.monotonic()
    lasting(lambda: lasting(lambda: None, 30)(), 20)()
    assert 0.03 <= time.monotonic() - started < 0.05


def test_without_a_time_it_is_the_call_itself() -> None:
    assert lasting(print, 0) is print


@pytest.mark.parametrize("method", ["backprop", "local", "delayed", "synthetic"])
def test_a_run_is_slower_and_otherwise_the_same_bit_for_bit(method: str, tmp_path: Path) -> None:
    """10 steps of 2 stages: in a row with backprop; else no stage is done before its own passes are."""
    changes = {"depth": {"method": method, "lag": 1}, "checkpoint": {"every": None}}
    launch(tiny(**changes), tmp_path / "fast")
    summary = launch(
        tiny(**changes, emulate={"forward_ms": 4, "backward_ms": 8, "cut_ms": 3}), tmp_path / "slow"
    ).summary
    assert_same(parameters_of(tmp_path / "slow", 2), parameters_of(tmp_path / "fast", 2))
    each = {"backprop": 2 * 12, "local": 12 + 3, "delayed": 12, "synthetic": 12 + 3}[method]
    assert 10 * 4 * 6 / summary["tokens_per_s"] >= (10 if method in ("backprop", "local") else 9) * each / 1000


def test_predictors_of_both_cuts_take_their_time(tmp_path: Path) -> None:
    """One stage: 9 of 10 windows of sequences that never end are followed by one with a target."""
    changes = {"stages": 1, "time": {"method": "synthetic"}, "data": {"sequence": None}}
    summary = launch(tiny(**changes, emulate={"cut_ms": 20}), tmp_path).summary
    assert 10 * 4 * 6 / summary["tokens_per_s"] >= 9 * 0.02
