"""With a fixed lag a run is reproducible bit for bit, on every transport and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import assert_same, parameters_of, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch

CRITICS = {
    "depth": {"kind": "critic", "warmup": 3},
    "time": {"kind": "critic", "hidden": 8, "future_labels": 5},
}


def synthetic(lag: int | None, **more: Any) -> Config:
    return tiny(
        stages=3,
        depth={"method": "synthetic", "max_in_flight": 4, "lag": lag},
        time={"method": "synthetic"},
        predictor=CRITICS,
        **more,
    )


def run(config: Config, folder: Path) -> Path:
    launch(config, folder)
    return folder


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_a_fixed_lag_gives_the_same_run_in_threads_and_over_grpc(lag: int, tmp_path: Path) -> None:
    folders = [
        run(synthetic(lag), tmp_path / "threads"),
        run(synthetic(lag), tmp_path / "again"),
        run(synthetic(lag, transport={"kind": "grpc"}), tmp_path / "grpc"),
        run(synthetic(lag, transport={"kind": "grpc", "delay_ms": 3}), tmp_path / "late"),
    ]
    first = parameters_of(folders[0], 3)
    for folder in folders[1:]:
        assert_same(first, parameters_of(folder, 3))


def test_different_lags_give_different_runs(tmp_path: Path) -> None:
    a, b = (parameters_of(run(synthetic(lag), tmp_path / str(lag)), 3) for lag in (0, 2))
    with pytest.raises(AssertionError, match="different"):
        assert_same(a, b)


@pytest.mark.parametrize("method", ["synthetic", "backprop"])
def test_a_resumed_run_equals_an_uninterrupted_one(method: str, tmp_path: Path) -> None:
    def config(every: int | None, **more: Any) -> Config:
        depth = {"method": method, "max_in_flight": 4, "lag": 2 if method == "synthetic" else None}
        return tiny(
            stages=3,
            steps=16,
            depth=depth,
            time={"method": "synthetic"},
            predictor=CRITICS,
            checkpoint={"every": every, "keep": 9},
            **more,
        )

    whole = run(config(None), tmp_path / "whole")
    saved = run(config(7), tmp_path / "saved")
    part = run(config(7, resume=str(saved), resume_step=7), tmp_path / "part")
    assert_same(parameters_of(whole, 3), parameters_of(saved, 3))
    assert_same(parameters_of(whole, 3), parameters_of(part, 3))


def test_without_a_lag_every_target_is_used_on_arrival(tmp_path: Path) -> None:
    summary = launch(synthetic(None, steps=30), tmp_path).summary
    assert summary["steps"] == 30
    for stage in summary["stage"][:-1]:
        assert 0 <= stage["staleness_mean"] <= 4
        assert stage["predictor_cosine"] is not None
