"""An emulated accelerator slows passes down, and changes nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.runs import assert_same, parameters_of, tiny
from workers.launch.launcher import launch
from workers.runtime.emulation import lasting


def test_a_call_lasts_the_minimum_time_and_returns_its_result() -> None:
    started = time.monotonic()
    assert lasting(lambda a, b=0: a + b, 20)(1, b=2) == 3
    assert time.monotonic() - started >= 0.02


def test_a_longer_call_is_not_delayed() -> None:
    started = time.monotonic()
    lasting(lambda: lasting(lambda: None, 30)(), 20)()
    assert 0.03 <= time.monotonic() - started < 0.05


def test_zero_milliseconds_return_the_call_itself() -> None:
    assert lasting(print, 0) is print


@pytest.mark.parametrize("method", ["backprop", "local", "delayed", "synthetic"])
def test_an_emulated_run_is_slower_and_equal_bit_for_bit(method: str, tmp_path: Path) -> None:
    """10 steps of 2 stages: backprop adds up the passes of both; other methods need at least those of one."""
    changes = {"depth": {"method": method, "lag": 1}, "checkpoint": {"every": None}}
    launch(tiny(**changes), tmp_path / "fast")
    summary = launch(
        tiny(**changes, emulate={"forward_ms": 4, "backward_ms": 8, "cut_ms": 3}), tmp_path / "slow"
    ).summary
    assert_same(parameters_of(tmp_path / "slow", 2), parameters_of(tmp_path / "fast", 2))
    each = {"backprop": 2 * 12, "local": 12 + 3, "delayed": 12, "synthetic": 12 + 3}[method]
    assert 10 * 4 * 6 / summary["tokens_per_s"] >= (10 if method in ("backprop", "local") else 9) * each / 1000


def test_updates_at_the_time_cut_are_slowed_down(tmp_path: Path) -> None:
    """One stage, endless sequences: a target follows 9 of the 10 windows."""
    changes = {"stages": 1, "time": {"method": "synthetic"}, "data": {"sequence": None}}
    summary = launch(tiny(**changes, emulate={"cut_ms": 20}), tmp_path).summary
    assert 10 * 4 * 6 / summary["tokens_per_s"] >= 9 * 0.02
