"""Whole runs with probes train like runs without, on every transport and after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import tiny
from tests.support.workers.same_state import same
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

CRITICS = {"depth": {"kind": "critic", "warmup": 3}, "time": {"kind": "critic", "hidden": 8, "future_labels": 5}}
SYNTHETIC = {"depth": {"method": "synthetic", "lag": 1}, "time": {"method": "synthetic"}, "predictor": CRITICS}
PROBES = {"every": 4, "windows": 2, "probe": 3}
#: Figures that depend on the clock, or on the step at which a process started.
NOT_REPEATED = ("wall_s", "time_loss", "depth_loss")


def run(config: Config, folder: Path) -> Path:
    launch(config, folder)
    return folder


def state(folder: Path, stages: int) -> list[Any]:
    """Return the whole last checkpoint, by stage."""
    step = checkpoint.complete_steps(folder)[-1]
    return [checkpoint.load(folder, step, k) for k in range(stages)]


def probes(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in r.items() if k not in NOT_REPEATED} for r in records if r["kind"] == "probe"]
    return sorted(kept, key=lambda record: (record["step"], record["stage"]))


@pytest.mark.parametrize(
    ("stages", "settings"),
    [
        pytest.param(1, {"time": {"method": "synthetic"}, "predictor": CRITICS, "data": {"kind": "copy", "window": 3}},
                     id="one-stage-with-a-curriculum"),
        pytest.param(2, SYNTHETIC, id="both-cuts-with-a-lag"),
        pytest.param(2, {"depth": {"method": "backprop"}, "time": {"method": "synthetic"}}, id="locked-depth"),
        pytest.param(2, {"depth": {"lag": 2}, "time": {"method": "full"}}, id="whole-sequences"),
        pytest.param(2, {"depth": {"lag": 0}, "model": {"kind": "mlp"}}, id="no-state"),
    ],
)  # fmt: skip
def test_probes_do_not_change_training(stages: int, settings: dict[str, Any], tmp_path: Path) -> None:
    plain = run(tiny(stages=stages, **settings), tmp_path / "plain")
    probed = run(tiny(stages=stages, **settings, evaluate=PROBES), tmp_path / "probed")
    same(state(plain, stages), state(probed, stages))
    assert [(r["step"], r["stage"]) for r in probes(probed)] == [(n, k) for n in (3, 6, 9) for k in range(stages)]
    assert not probes(plain)


@pytest.mark.long
def test_processes_and_a_resumed_run_have_the_same_probes(tmp_path: Path) -> None:
    def config(**changes: Any) -> Config:
        return tiny(**{"stages": 2, **SYNTHETIC, "evaluate": PROBES, "checkpoint": {"every": 4, "keep": 9}, **changes})

    plain = run(config(evaluate={}), tmp_path / "plain")
    whole = run(config(transport={"kind": "grpc"}, launch={"mode": "processes"}), tmp_path / "processes")
    part = run(config(resume=str(whole), resume_step=4), tmp_path / "part")
    same(state(plain, 2), state(whole, 2))
    same(state(plain, 2), state(part, 2))
    assert probes(whole) == probes(part)
    last = [record for record in probes(whole) if record["step"] == 9]
    for folder in (whole, part):
        for entry, record in zip(json.loads((folder / "summary.json").read_text())["stage"], last, strict=True):
            figures = {key: value for key, value in entry["probe"].items() if key not in NOT_REPEATED}
            assert {"kind": "probe", "stage": entry["index"], **figures} == record
