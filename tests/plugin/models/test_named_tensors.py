"""A user's model with several tensors at every cut: exact in locked training, each tensor predicted in others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from tests.support.transports import EVERY
from workers.config.settings import Config
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


@pytest.mark.long
def test_processes_go_on_where_they_stopped(tmp_path: Path) -> None:
    settings = {"depth": {"method": "synthetic", "lag": 1}, **PROCESSES, **SAVED}
    launch(own(**settings), tmp_path / "whole")
    launch(own(**settings, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 4), parameters_of(tmp_path / "again", 4))


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
