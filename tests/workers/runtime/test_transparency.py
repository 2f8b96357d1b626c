"""K stages with depth=backprop equal the unsplit model bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch

OPTIMIZERS = {
    "adam": {"kind": "adam", "learning_rate": 1e-2, "clip": 0.05},
    "sgd": {"kind": "sgd", "learning_rate": 0.5, "momentum": 0.9, "clip": 0.05},
}


def locked(stages: int, model: str, optimizer: str, transport: str, **more: Any) -> Config:
    return tiny(
        stages=stages,
        model={"kind": model},
        depth={"method": "backprop"},
        optimizer=OPTIMIZERS[optimizer],
        transport={"kind": transport},
        **more,
    )


@pytest.mark.parametrize("transport", ["local", "grpc", "torch_distributed"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("model", ["lstm", "mlp"])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_stages_in_threads_equal_the_unsplit_model(
    stages: int, model: str, optimizer: str, transport: str, tmp_path: Path
) -> None:
    config = locked(stages, model, optimizer, transport)
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, stages), plain_training(config))


@pytest.mark.long
@pytest.mark.parametrize("transport", ["grpc", "torch_distributed"])
def test_stages_in_processes_equal_the_unsplit_model(transport: str, tmp_path: Path) -> None:
    config = locked(3, "lstm", "adam", transport, launch={"mode": "processes"})
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, 3), plain_training(config))


@pytest.mark.parametrize("stages", [1, 2])
def test_accumulated_windows_are_one_step_of_the_unsplit_model(stages: int, tmp_path: Path) -> None:
    """Ten windows make three steps; the gradients of the tenth remain."""
    config = locked(stages, "lstm", "adam", "local")
    config.optimizer.accumulate = 3
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, stages), plain_training(config))


@pytest.mark.parametrize("model", ["lstm", "gru"])
def test_full_backpropagation_through_time_is_one_window_per_sequence(model: str, tmp_path: Path) -> None:
    config = tiny(model={"kind": model}, depth={"method": "backprop"}, time={"method": "full"})
    assert config.window == 18
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, 2), plain_training(config))


def test_an_untrained_regressor_in_time_equals_truncation_bit_for_bit(tmp_path: Path) -> None:
    untrained = {"time": {"kind": "mlp", "hidden": 8, "context": "none", "learning_rate": 0.0}}
    synthetic = tiny(depth={"method": "backprop"}, time={"method": "synthetic"}, predictor=untrained)
    truncated = tiny(depth={"method": "backprop"})
    launch(synthetic, tmp_path / "synthetic")
    launch(truncated, tmp_path / "truncated")
    assert_same(parameters_of(tmp_path / "synthetic", 2), parameters_of(tmp_path / "truncated", 2))
