"""A user's model with several tensors at every cut: exact in locked training, each tensor predicted in others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.runs import assert_close, assert_same, parameters_of, plain_training, tiny
from tests.support.transports import EVERY
from workers.cli.evaluate import evaluate
from workers.config.settings import Config
from workers.launch.accept import settle
from workers.launch.launcher import launch
from workers.storage import checkpoint

OWN = "tests.plugin.models.skips"
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
SAVED: dict[str, Any] = {"checkpoint": {"every": 4, "keep": 9}}


def own(model: str = "Skips", **changes: Any) -> Config:
    return tiny(**{"model": {"_target_": f"{OWN}.{model}"}, "stages": 4, **changes})


@pytest.mark.parametrize("transport", [name for name in EVERY if name in ("local", "grpc", "torch_distributed")])
def test_locked_training_equals_the_unsplit_model_bit_for_bit(transport: str, tmp_path: Path) -> None:
    locked = {"depth": {"method": "backprop"}, "transport": {"kind": transport}}
    launch(own(**locked), tmp_path)
    assert_same(parameters_of(tmp_path, 4), plain_training(own(**locked)))


@pytest.mark.parametrize("window", [1, 6])
def test_tensors_without_rows_cross_too(window: int, tmp_path: Path) -> None:
    """A mask (T, T) and a parameter (D,), one tensor under two names, and one that no stage uses."""
    model = {"_target_": "tests.plugin.models.side_values.SideValues"}
    config = tiny(model=model, stages=4, depth={"method": "backprop"}, data={"window": window}, steps=6)
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, 4), plain_training(config))


@pytest.mark.long
def test_processes_go_on_where_they_stopped(tmp_path: Path) -> None:
    settings = {"depth": {"method": "synthetic", "lag": 1}, **PROCESSES, **SAVED}
    launch(own(**settings), tmp_path / "whole")
    launch(own(**settings, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 4), parameters_of(tmp_path / "again", 4))


@pytest.mark.long
@pytest.mark.parametrize("method", ["synthetic", "local", "delayed"])
def test_other_methods_learn(method: str, tmp_path: Path) -> None:
    depth = {"method": method, "lag": 1}
    first = launch(own(depth=depth, steps=4), tmp_path / "short").summary
    later = launch(own(depth=depth, steps=150), tmp_path / "long").summary
    assert later["valid"]["loss"] < first["valid"]["loss"]


def test_every_floating_tensor_has_a_predictor_of_its_own(tmp_path: Path) -> None:
    launch(own(depth={"method": "synthetic", "lag": 1}, **SAVED), tmp_path)
    step = checkpoint.complete_steps(tmp_path)[-1]
    state = checkpoint.load(tmp_path, step, 0)["depth"]
    assert sorted(state) == ["hidden", "skip"]
    assert state["hidden"]["updates"] == state["skip"]["updates"] > 0


@pytest.mark.parametrize("model", ["skips.Skips", "side_values.SideValues", "side_values.pairs", "own_module.network"])
@pytest.mark.long
def test_pipelines_accept_them(model: str) -> None:
    piped = {"depth": {"method": "1f1b", "microbatches": 4}, "stages": 4, **PROCESSES}
    config, _ = settle(tiny(model={"_target_": f"tests.plugin.models.{model}"}, **piped), None)
    assert config.pipelined


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_pipeline_in_processes_equals_plain_backpropagation_and_is_evaluated(tmp_path: Path) -> None:
    piped = {"depth": {"method": "zero_bubble", "microbatches": 4}, "stages": 2, **PROCESSES}
    summary = launch(own(**piped, evaluate={"windows": None}), tmp_path).summary
    assert_close(parameters_of(tmp_path, 4), plain_training(own(**piped)), within=1e-5)
    measured = evaluate(tmp_path, "valid")["bits_per_label"]
    assert measured == pytest.approx(summary["valid"]["bits_per_label"], rel=1e-6)


REFUSED = [
    (
        {"model": "MaskAlone", "stages": 2},
        r"stage 0 sends the tensors mask, none of which has a gradient: send a floating-point",
    ),
    (
        {"depth": {"method": "lambda_return", "max_in_flight": 6}},
        r"and depth=lambda_return needs one tensor: use depth=",
    ),
    ({"time": {"method": "checkpointed"}, "depth": {"method": "backprop"}}, r"time=checkpointed"),
    (
        {"evaluate": {"probe": 2}},
        r"sends the tensors hidden, skip, mask, and probes need one tensor: set evaluate.prob",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_needs_one_tensor_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        launch(own(**changes), tmp_path)
    assert "\n" not in str(caught.value)
