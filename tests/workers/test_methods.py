"""Every combination of methods runs on both transports; a run folder holds one run; resuming on a GPU."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import ConfigError
from tests.support.runs import assert_same, parameters_of, tiny
from tests.support.workers.gpus import on_gpus
from workers.launch.launcher import launch
from workers.storage import checkpoint

TIMES = ["full", "checkpointed", "truncated", "synthetic"]
COMBINATIONS = [
    *itertools.product(["backprop", "synthetic"], TIMES, ["critic", "mlp", "linear"]),
    *itertools.product(["local", "corrected"], TIMES, ["critic"]),
    *itertools.product(["delayed"], TIMES[:-1], ["critic"]),  # the last is refused: test_rules
]


@pytest.mark.parametrize("transport", ["local", "grpc"])
@pytest.mark.parametrize(("depth", "time", "predictor"), COMBINATIONS)
def test_every_combination_of_methods_runs(
    depth: str, time: str, transport: str, predictor: str, tmp_path: Path
) -> None:
    cut = {"kind": predictor, **({} if predictor == "linear" else {"hidden": 8})}
    in_depth = {"kind": predictor} if depth == "local" else cut  # local refuses what it does not use
    config = tiny(
        steps=5,
        depth={"method": depth},
        time={"method": time},
        transport={"kind": transport},
        predictor={"depth": in_depth, "time": {**cut, "future_labels": 2}},
    )
    summary = launch(config, tmp_path).summary
    assert summary["steps"] == 5
    assert 0 < summary["valid"]["bits_per_label"] < 8


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    launch(tiny(steps=3), tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        launch(tiny(steps=3, seed=1), tmp_path)


def test_resume_from_an_earlier_step_in_the_same_folder_drops_later_checkpoints(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"depth": {"lag": 1}, "checkpoint": {"every": 2, "keep": 9}}
    launch(tiny(steps=6, **settings), tmp_path / "run")
    assert checkpoint.complete_steps(tmp_path / "run") == [2, 4, 6]
    launch(tiny(steps=3, resume=str(tmp_path / "run"), resume_step=2, **settings), tmp_path / "run")
    assert checkpoint.complete_steps(tmp_path / "run") == [2, 3]
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert max(record["step"] for record in records) == 3
    launch(tiny(steps=3, **settings), tmp_path / "alone")
    assert_same(parameters_of(tmp_path / "run", 2), parameters_of(tmp_path / "alone", 2))


@on_gpus(1)
@pytest.mark.parametrize("transport", ["local", "grpc"])
def test_a_run_resumes_on_a_gpu(transport: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "depth": {"lag": 1}, "time": {"method": "synthetic"}, "transport": {"kind": transport},
        "predictor": {"time": {"kind": "critic", "hidden": 8, "future_labels": 2}},
        "checkpoint": {"every": 4, "keep": 9},
    }  # fmt: skip
    launch(tiny(steps=8, **settings), tmp_path / "whole")
    launch(tiny(steps=8, resume=str(tmp_path / "whole"), resume_step=4, **settings), tmp_path / "part")
    a, b = parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "part", 2)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
