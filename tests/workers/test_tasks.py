"""Generated tasks in whole runs: curricula follow the losses, on every transport and after a resume."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.commands import run, settings, summary_of
from tests.support.runs import assert_same, parameters_of, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

CRITICS = {"depth": {"kind": "critic"}, "time": {"kind": "critic", "hidden": 16, "future_labels": 6}}


def copying(lag: int | None = 1, **more: Any) -> Config:
    changes: dict[str, Any] = {
        "data": {"kind": "copy", "batch": 16, "window": 4, "sequence": None},
        "depth": {"method": "synthetic", "max_in_flight": 4, "lag": lag},
        "time": {"method": "synthetic"},
        "predictor": CRITICS,
        "model": {"units": 24, "layers": 1, "split_points": ["softmax"]},
        "optimizer": {"learning_rate": 2e-2},
        "evaluate": {"every": None, "windows": None},
        "steps": 240,
        "log_every": 20,
    } | more
    return tiny(**changes)


def solved(run_dir: Path) -> list[int]:
    """Return the longest solved sequence of every record."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record["solved_length"] for record in records if "solved_length" in record]


@pytest.mark.long
def test_the_curriculum_is_the_same_in_threads_and_over_grpc(tmp_path: Path) -> None:
    launch(copying(), tmp_path / "local")
    launch(copying(transport={"kind": "grpc"}), tmp_path / "grpc")
    assert solved(tmp_path / "local") == solved(tmp_path / "grpc")
    assert solved(tmp_path / "local")[-1] >= 7
    assert_same(parameters_of(tmp_path / "local", 2), parameters_of(tmp_path / "grpc", 2))


@pytest.mark.long
def test_a_resumed_curriculum_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    settings = {"checkpoint": {"every": 101, "keep": 9}}
    launch(copying(), tmp_path / "whole")
    launch(copying(**settings), tmp_path / "saved")
    launch(copying(**settings, resume=str(tmp_path / "saved"), resume_step=101), tmp_path / "part")
    assert solved(tmp_path / "part") == solved(tmp_path / "whole")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "part", 2))


def test_max_timesteps_limits_a_run_for_any_window(tmp_path: Path) -> None:
    for name, window in (("short", 2), ("long", 8)):
        data = {"kind": "copy", "batch": 4, "window": window, "sequence": None, "length": 15}
        summary = launch(copying(data=data, max_timesteps=64, steps=10**6), tmp_path / name).summary
        assert summary["steps"] == 64 // window
        assert summary["valid"]["bits_per_label"] > 0  # sequences of a fixed length have validation


def test_labels_that_do_not_count_take_no_heads(tmp_path: Path) -> None:
    """Three heads of three classes on the state of an LSTM of 24 units, for the next 20 labels of a sequence of 15."""
    data = {"kind": "copy", "batch": 4, "window": 4, "sequence": None, "length": 15}
    critic = {"kind": "critic", "hidden": 0, "future_labels": 20, "counted_labels": 3}
    predictor = {**CRITICS, "time": critic}
    launch(copying(data=data, steps=9, predictor=predictor, checkpoint={"every": 9, "keep": 1}), tmp_path)
    weights = checkpoint.load(tmp_path, 9, 0)["time"]["predictor"]
    assert {name: tuple(each.shape) for name, each in weights.items()} == {"last.weight": (9, 48), "last.bias": (9,)}
    assert weights["last.bias"].view(3, 3).abs().amin() > 0  # all have learned


@pytest.mark.parametrize("time", ["full", "checkpointed"])
def test_full_backpropagation_follows_growing_sequences(time: str, tmp_path: Path) -> None:
    launch(copying(lag=None, depth={"method": "backprop"}, time={"method": time}, steps=150), tmp_path)
    assert solved(tmp_path)[-1] >= 5


def test_a_stream_without_future_labels_refuses_a_critic_that_needs_them(tmp_path: Path) -> None:
    data = {"kind": "copy", "batch": 4, "window": 4, "sequence": None, "streaming": True}
    with pytest.raises(ConfigError, match="the labels after a window are not known yet"):
        launch(copying(data=data), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("time", ["truncated", "synthetic", "full"])
@pytest.mark.long
def test_sequential_mnist_runs(time: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("DNI_MNIST", "../shared/data/mnist"))
    if not folder.is_dir():
        pytest.skip(f"MNIST is not in {folder}: name its folder in DNI_MNIST")
    data = {"kind": "seqmnist", "path": str(folder), "side": 7, "batch": 8, "window": 7, "sequence": None}
    summary = launch(copying(data=data, time={"method": time}, steps=14), tmp_path).summary
    assert summary["valid"]["bits_per_label"] > 0


#: A narrow version of experiment=stream.
STREAM = (
    "experiment=stream", "data.batch=4", "model.units=8", "predictor.time.hidden=8", "launch.torch_threads=1",
    "checkpoint.every=7",
)  # fmt: skip


@pytest.mark.long
def test_the_memory_of_a_stream_does_not_grow(tmp_path: Path) -> None:
    held = {}
    for steps in (100, 1500):
        folder = tmp_path / str(steps)
        assert run(tmp_path, *STREAM, f"max_timesteps={32 * steps}", f"hydra.run.dir={folder}").code == 0
        assert summary_of(folder)["steps"] == steps
        held[steps] = summary_of(folder)["stage"][0]["peak_rss_mb"]
    assert held[1500] - held[100] < 8  # megabytes; activations of every window would be 50


def test_a_resumed_stream_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    launch(settings(*STREAM, "max_timesteps=640"), tmp_path / "whole")
    launch(settings(*STREAM, "max_timesteps=320"), tmp_path / "part")
    part = launch(
        settings(*STREAM, "max_timesteps=640", f"resume={tmp_path / 'part'}", "resume_step=7"), tmp_path / "on"
    )
    assert part.summary["steps"] == 20
    assert_same(parameters_of(tmp_path / "whole", 1), parameters_of(tmp_path / "on", 1))
