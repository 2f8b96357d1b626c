"""Forward unlocking in whole runs: stages predict their inputs and do not wait for forward passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from omegaconf import OmegaConf

from dni.errors import ConfigError
from tests.support.pictures import digits
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.interfaces import refuse_large
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.launch.threads import run_threads
from workers.runtime.job import Job
from workers.storage import checkpoint


def unlocked(lag: int | None = 1, **more: Any) -> Config:
    """Three stages, synthetic in depth and time."""
    depth = {"method": "synthetic_inputs", "max_in_flight": 3, "lag": lag, "input_hidden": 8}
    predictor = {"depth": {"warmup": 3}, "time": {"hidden": 8, "future_labels": 5}}
    return tiny(stages=3, depth=depth, time={"method": "synthetic"}, predictor=predictor, **more)


def run(config: Config, folder: Path) -> dict[str, Any]:
    launch(config, folder)
    return parameters_of(folder, config.stages)


@pytest.mark.parametrize("lag", [0, 2])
def test_a_fixed_lag_gives_the_same_run_in_threads_and_over_grpc(lag: int, tmp_path: Path) -> None:
    first = run(unlocked(lag), tmp_path / "threads")
    assert_same(first, run(unlocked(lag, transport={"kind": "grpc", "delay_ms": 3}), tmp_path / "late"))


@pytest.mark.long
def test_processes_train_as_threads_do(tmp_path: Path) -> None:
    threads = replace(unlocked(), stages=2)
    processes = replace(unlocked(transport={"kind": "grpc"}, launch={"mode": "processes"}), stages=2)
    assert_same(run(threads, tmp_path / "threads"), run(processes, tmp_path / "processes"))


COPIES = {"kind": "repeat_copy", "length": 7, "sequence": None}


@pytest.mark.parametrize("more", [{}, {"data": COPIES}])
def test_a_resumed_run_equals_one_that_never_saved_on_its_way(more: dict[str, Any], tmp_path: Path) -> None:
    def config(every: int | None, **settings: Any) -> Config:
        return unlocked(steps=16, checkpoint={"every": every, "keep": 9}, **{**more, **settings})

    whole = run(config(None), tmp_path / "whole")
    assert_same(whole, run(config(7), tmp_path / "saved"))
    assert_same(whole, run(config(7, resume=str(tmp_path / "saved"), resume_step=7), tmp_path / "part"))


def test_validation_and_probes_do_not_change_training(tmp_path: Path) -> None:
    often = run(unlocked(evaluate={"every": 2, "windows": 3, "probe": 3}), tmp_path / "often")
    assert_same(often, run(unlocked(evaluate={"every": None, "windows": 1}), tmp_path / "once"))


def test_a_stopped_run_ends_at_one_step_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    """The first stage announces the last step: W steps per edge after the one at which it was stopped."""
    stopped_at, ends, stop = [], {}, Event()

    def sink(record: dict[str, Any]) -> None:
        if record["kind"] == "train" and record["step"] == 5 and record["stage"] == 0:
            stopped_at.append(record["step"])
            stop.set()
        if record["kind"] == "end":
            ends[record["stage"]] = record["step"]

    config, data = resolve(unlocked(steps=1000))
    folder = tmp_path / "stopped"
    run_threads(Job(config, folder, sink, stop, data))
    assert (stopped_at, ends) == ([5], dict.fromkeys(range(3), 5 + 2 * 3))
    assert checkpoint.complete_steps(folder) == [11]
    OmegaConf.save(OmegaConf.create(to_plain(config)), folder / "config.yaml")
    part = run(replace(config, steps=16, resume=str(folder)), tmp_path / "part")
    assert_same(run(replace(config, steps=16), tmp_path / "whole"), part)


def test_patience_ends_a_run(tmp_path: Path) -> None:
    """The first pass, after step 3, stays the best; patience runs out after step 9, and the run ends at step 15."""
    config = unlocked(
        None, steps=100, optimizer={"learning_rate": 1e-30}, checkpoint={"every": None, "keep": 1},
        evaluate={"every": 3, "windows": 1, "patience": 2},
    )  # fmt: skip
    summary = launch(config, tmp_path).summary
    assert (summary["ended"], summary["steps"], summary["best"]["step"]) == ("patience", 15, 3)
    assert checkpoint.complete_steps(tmp_path) == [3, 15]


def test_the_quality_of_predicted_inputs_is_recorded(tmp_path: Path) -> None:
    """The first stage is a constant embedding, whose outputs a table of symbols can predict exactly."""
    config = tiny(
        steps=80, log_every=20, model={"layers": 1, "split_points": ["lstm1"]},
        depth={"method": "synthetic_inputs", "input_learning_rate": 0.1}, optimizer={"learning_rate": 1e-30},
    )  # fmt: skip
    summary = launch(config, tmp_path).summary
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [r["input_loss"] for r in records if r["kind"] == "train" and r["stage"] == 1]
    assert len(losses) == 4
    assert losses[-1] < 0.1 * losses[0]
    assert 0.9 < summary["stage"][1]["input_r2"] < 1
    assert "input_r2" not in summary["stage"][0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits(tmp_path_factory.mktemp("digits"))


def images(folder: Path, model: str, input_hidden: int = 128, **more: Any) -> Config:
    data = {"kind": "mnist", "path": str(folder), "batch": 8, "window": 1, "sequence": None}
    depth = {"method": "synthetic_inputs", "lag": 1, "input_hidden": input_hidden}
    return tiny(stages=3, data=data, depth=depth, model={"kind": model, "units": 4, "layers": 2}, **more)


@pytest.mark.parametrize("model", ["mlp_bn", "cnn"])
def test_inputs_of_every_shape_are_predicted(model: str, folder: Path, tmp_path: Path) -> None:
    summary = launch(images(folder, model, steps=6), tmp_path).summary
    assert summary["steps"] == 6
    assert all(stage["input_r2"] is not None for stage in summary["stage"][1:])


def test_a_too_large_input_predictor_is_refused(folder: Path) -> None:
    """784 pixels, and 400 maps of 14 x 14: 785 x 78400 weights."""
    config, _ = resolve(images(folder, "cnn", input_hidden=0))
    message = (
        r"depth.input_hidden=0 would make a model of 61,544,000 weights for the inputs of stage 1, more than "
        r"16,777,216: set depth.input_hidden=128, say"
    )
    with pytest.raises(ConfigError, match=message):
        refuse_large(replace(config, model=replace(config.model, units=400)))
