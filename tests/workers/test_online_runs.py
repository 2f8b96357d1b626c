"""time=online in whole runs: over stages and processes, resumed, cut elsewhere, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import ConfigError
from dni.predictors.in_time import Mlp
from tests.support.runs import assert_close, assert_same, parameters_of, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
TRUNCATED: dict[str, Any] = {"method": "truncated"}


def online(future: str) -> dict[str, Any]:
    return {"method": "online", "future": future}


def config_of(time: dict[str, Any], depth: str = "backprop", cell: str = "lru", **more: Any) -> Config:
    """Windows of a third of a sequence each; checkpoints lie inside sequences."""
    return tiny(
        model={"kind": "residual", "units": 8, "layers": 3, "cell": cell},
        depth={"method": depth, "lag": 1 if depth in ("synthetic", "irregular") else None},
        time=time,
        predictor={"time": {"kind": "critic", "future_labels": 2}},
        optimizer={"learning_rate": 1e-2, "clip": None},
        checkpoint={"every": 5, "keep": 9},
        **more,
    )


@pytest.mark.parametrize("future", ["spatial", "synthetic"])
@pytest.mark.parametrize(
    "depth", ["backprop", *(pytest.param(d, marks=pytest.mark.long) for d in ("synthetic", "local", "irregular"))]
)
def test_it_runs_and_goes_on_where_it_stopped(depth: str, future: str, tmp_path: Path) -> None:
    launch(config_of(online(future), depth), tmp_path / "whole")
    again = config_of(online(future), depth, resume=str(tmp_path / "whole"), resume_step=5)
    launch(again, tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))


@pytest.mark.long
@pytest.mark.parametrize("cell", ["lru", "mingru", "minlstm"])
def test_traces_and_a_predicted_future_change_what_is_learned(cell: str, tmp_path: Path) -> None:
    found = {}
    for name, time in {"truncated": TRUNCATED, "spatial": online("spatial"), "synthetic": online("synthetic")}.items():
        launch(config_of(time, cell=cell, stages=1), tmp_path / name)
        found[name] = torch.cat([value.flatten() for value in parameters_of(tmp_path / name, 1).values()])
    assert not torch.allclose(found["spatial"], found["truncated"], atol=1e-4)
    assert not torch.allclose(found["synthetic"], found["spatial"], atol=1e-4)


def test_a_predictor_that_stays_at_zero_is_no_future_bit_for_bit(tmp_path: Path) -> None:
    for name, future in {"zero": "synthetic", "none": "spatial"}.items():
        config = config_of(online(future))
        config.predictor.time = Mlp(hidden=8, learning_rate=0.0)
        launch(config, tmp_path / name)
    assert_same(parameters_of(tmp_path / "zero", 2), parameters_of(tmp_path / "none", 2))


def test_windows_of_whole_sequences_are_full_backpropagation_bit_for_bit(tmp_path: Path) -> None:
    whole = {"batch": 4, "window": 18, "sequence": 18}
    launch(config_of(online("spatial"), data=whole), tmp_path / "online")
    launch(config_of({"method": "full"}, data=whole), tmp_path / "full")
    assert_same(parameters_of(tmp_path / "online", 2), parameters_of(tmp_path / "full", 2))


@pytest.mark.long
def test_stages_in_processes_equal_one_stage(tmp_path: Path) -> None:
    launch(config_of(online("spatial"), stages=1), tmp_path / "one")
    launch(config_of(online("spatial"), stages=3, **PROCESSES), tmp_path / "three")
    assert_close(parameters_of(tmp_path / "three", 3), parameters_of(tmp_path / "one", 1))


def test_traces_follow_their_layers_to_other_stages(tmp_path: Path) -> None:
    """Step 5 is the second window of a sequence of three."""
    launch(config_of(online("spatial"), stages=3, steps=5), tmp_path / "three")
    launch(config_of(online("spatial"), stages=2, resume=str(tmp_path / "three")), tmp_path / "two")
    launch(config_of(online("spatial"), stages=1), tmp_path / "one")
    assert_close(parameters_of(tmp_path / "two", 2), parameters_of(tmp_path / "one", 1))


@pytest.mark.parametrize(("cell", "tensors"), [("lru", 2), ("mingru", 1), ("minlstm", 1)])
def test_traces_stay_in_32_bits(cell: str, tensors: int, tmp_path: Path) -> None:
    launch(config_of(online("synthetic"), cell=cell, precision="bf16"), tmp_path / "run")
    traces = [trace for k in range(2) for trace in checkpoint.load(tmp_path / "run", 10, k)["stage"]["traces"].values()]
    assert {trace.dtype for trace in traces} == {torch.float32}
    assert all(trace.isfinite().all() and trace.count_nonzero() for trace in traces)
    assert {trace.shape[:2] for trace in traces} == {(4, tensors)}  # four streams, the tensors of the state


def test_other_recurrent_layers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = tiny(time=online("spatial"), depth={"method": "backprop"})
    with pytest.raises(ConfigError, match=r"time=online cannot train model=lstm: layer 'lstm1' \(LSTM\) names no"):
        launch(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
