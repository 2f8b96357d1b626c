"""Reconstructions in runs: the same for critics and local losses, resumed, and refused where there is no one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.runs import assert_close, assert_same, parameters_of, tiny
from workers.config.settings import Config
from workers.launch.accept import refuse_early
from workers.launch.launcher import launch

MODEL = {"kind": "transformer", "heads": 2, "memory": 4}


def run(depth: dict[str, Any], weight: float = 0.5, **changes: Any) -> Config:
    head = {"kind": "norm_head", "reconstruction": weight}
    plan = {"optimizer": {"schedule": {"kind": "constant"}}, "predictor": {"depth": head}}
    return tiny(**{"stages": 3, "steps": 6, "model": MODEL, "depth": depth, **plan, **changes})


@pytest.mark.parametrize("other", [{"method": "synthetic", "lag": 1}, {"method": "corrected", "beta": 0.0, "lag": 1}])
@pytest.mark.long
def test_stages_learn_as_with_a_local_loss(other: dict[str, Any], tmp_path: Path) -> None:
    for name, depth in (("local", {"method": "local"}), ("other", other)):
        launch(run(depth), tmp_path / name)
    launch(run({"method": "local"}, weight=0.0), tmp_path / "without")
    local, critic, without = (parameters_of(tmp_path / name, 3) for name in ("local", "other", "without"))
    assert_close(local, critic, within=1e-4)
    assert max((local[name] - without[name]).abs().max().item() for name in local) > 1e-3


def test_a_resumed_run_equals_one_that_went_on(tmp_path: Path) -> None:
    depth = {"method": "corrected", "lag": 1}
    launch(run(depth), tmp_path / "whole")
    launch(run(depth, steps=3), tmp_path / "half")
    launch(run(depth, resume=str(tmp_path / "half")), tmp_path / "resumed")
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "resumed", 3))


def test_named_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples" / "residual_net")
    model = {"_target_": "resnet.parts", "width": 4, "blocks": 2, "split_points": ["close0", "open1"]}
    config = run({"method": "local"}, model=model, data={"kind": "mnist"}, transport={"kind": "local"})
    config.model.symbols, config.model.input_symbols, config.model.input_shape = 10, 0, [1, 8, 8]
    with pytest.raises(ConfigError, match="stage 0 sends the tensors skip, inner, where one tensor is needed"):
        refuse_early(config)
