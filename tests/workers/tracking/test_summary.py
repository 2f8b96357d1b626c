"""The layout of a run's summary, and its figures from the stages' end records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.records import LN2, end, plain, valid
from workers.tracking.monitor import Monitor
from workers.tracking.summary import RunFacts, write_summary

FACTS = RunFacts(
    depth="synthetic", time="truncated", experiment="chars", seed=3, stages=2, transport="local",
    launch="threads", window=4, lag=None, delay_ms=1.5, data_name="tiny", data_sha256="ab",
    devices=("cpu", "cpu"),
)  # fmt: skip


def test_summary_has_the_agreed_layout(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(valid(20, 3 * LN2))
        monitor(valid(40, 2 * LN2) | {"accuracy": 0.25})
        monitor(valid(60, 2.5 * LN2) | {"accuracy": 0.5})
        monitor(end(1, wall_s=5.0, train_loss=1.5 * LN2, staleness_mean=None, predictor_cosine=None))
        monitor(end(0))
    summary = write_summary(tmp_path, FACTS, stages=monitor.summary_stages(), valid=monitor.valid_history)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    versions = summary.pop("versions")
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions.keys() == {
        "python", "torch", "numpy", "grpc", "protobuf", "hydra", "omegaconf", "safetensors", "dni",
    }  # fmt: skip
    common = {
        "busy": 0.25,
        "steps_per_s": 10.0,
        "time_cosine": None,
        "peak_rss_mb": 100.0,
        "device": "cpu",
    }
    assert summary == {
        "method": {"depth": "synthetic", "time": "truncated"},
        "experiment": "chars", "seed": 3, "stages": 2, "transport": "local", "launch": "threads",
        "steps": 40, "wall_s": 5.0, "tokens_per_s": 1600.0,  # 8000 characters in 5 s
        "train": {"loss": pytest.approx(1.5 * LN2), "bits_per_label": pytest.approx(1.5)},
        "valid": {"loss": 2.5 * LN2, "bits_per_label": pytest.approx(2.5), "accuracy": 0.5},
        "best": {"step": 40, "bits_per_label": pytest.approx(2.0)},
        "stage": [
            {"index": 0, "staleness_mean": 2.5, "predictor_cosine": 0.5, **common},
            {"index": 1, "staleness_mean": None, "predictor_cosine": None, **common},
        ],
        "restarts": 0, "interrupted": False, "ended": "steps", "data": {"name": "tiny", "sha256": "ab"},
        "window": 4, "lag": None, "delay_ms": 1.5,
    }  # fmt: skip


def test_throughput_excludes_validation_time_if_known(tmp_path: Path) -> None:
    stages = [{"index": 0, "step": 9, "wall_s": 4.0}, {"index": 1, "step": 8, "wall_s": 5.0, "train_s": 4.0}]
    stages[1]["characters"] = 8000
    summary = write_summary(tmp_path, FACTS, stages=stages, valid=[])
    assert (summary["tokens_per_s"], summary["steps"], summary["wall_s"]) == (2000.0, 8, 5.0)


def test_an_interrupted_run_without_ends_has_a_summary(tmp_path: Path) -> None:
    write_summary(tmp_path, FACTS, stages=[], valid=[], restarts=2, ended="interrupted")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["wall_s"], summary["stage"]) == (None, None, [])
    assert (summary["restarts"], summary["interrupted"], summary["ended"]) == (2, True, "interrupted")
    assert summary["best"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
