"""Stages on GPUs: named tensors, lower precision, compiled stages, numbers as labels, and torch's pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.runs import assert_close, parameters_of, plain_training, tiny
from tests.support.workers.gpus import on_gpus
from workers.launch.launcher import launch

ONE, TWO = {"devices": ["cuda:0"]}, {"devices": ["cuda:0", "cuda:1"]}
SKIPS = {"_target_": "tests.plugin.models.skips.Skips"}
SIDE_VALUES = {"_target_": "tests.plugin.models.side_values.SideValues"}
SGD = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "clip": 0.5}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "optimizer": SGD, "steps": 5}


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recurrent layers compute in 32 bits as well, here and in processes that are started."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@on_gpus(1)
@pytest.mark.parametrize("model", [SKIPS, SIDE_VALUES], ids=["skips", "side_values"])
@pytest.mark.parametrize("transport", ["local", "torch_distributed"])
def test_named_tensors_of_any_element_type_cross_between_stages(
    transport: str, model: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"model": model, "stages": 4, **LOCKED}
    launch(tiny(**settings, **ONE, transport={"kind": transport}), tmp_path)
    assert_close(parameters_of(tmp_path, 4), plain_training(tiny(**settings)), within=1e-4)


@on_gpus(1)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_loss_in_16_bits_is_nearly_that_in_32_bits(precision: str, tmp_path: Path) -> None:
    learns: dict[str, Any] = {"steps": 100, "optimizer": {"learning_rate": 0.01}, "evaluate": {"windows": 8}}
    losses = {
        each: launch(tiny(**ONE, **learns, depth={"method": "backprop"}, precision=each), tmp_path / each).summary
        for each in (precision, "fp32")
    }
    found, expected = (losses[each]["valid"]["loss"] for each in (precision, "fp32"))
    assert found == pytest.approx(expected, rel=0.02)
    assert {tensor.dtype for tensor in parameters_of(tmp_path / precision, 2).values()} == {torch.float32}


@on_gpus(1)
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's compiler
@pytest.mark.timeout(300)
def test_compiled_stages_train_alike(tmp_path: Path) -> None:
    settings = {"model": {"kind": "mlp", "units": 8, "layers": 2}, **LOCKED}
    slow = {"kind": "local", "timeout_s": 200}  # to compile takes long
    launch(tiny(**settings, **ONE, compile=True, transport=slow), tmp_path)
    assert_close(parameters_of(tmp_path, 2), plain_training(tiny(**settings)), within=1e-4)


@on_gpus(1)
@pytest.mark.parametrize("transport", ["local", "grpc"])
def test_labels_that_are_numbers_reach_the_last_stage(transport: str, tmp_path: Path) -> None:
    path = tmp_path / "waves.npy"
    np.save(path, np.random.default_rng(0).normal(size=(1000, 3)))
    settings: dict[str, Any] = {
        "data": {"kind": "series", "path": str(path), "targets": ["0"], "horizon": 2, "sequence": 18},
        "loss": {"_target_": "dni.loss_function.SquaredError"},
        "model": {"kind": "mlp", "units": 8, "layers": 2},
        **LOCKED,
    }

    def half_square(output: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * (output - labels).square().sum()

    launch(tiny(**settings, **ONE, transport={"kind": transport}), tmp_path / "run")
    expected = plain_training(tiny(**settings), loss=half_square)
    assert_close(parameters_of(tmp_path / "run", 2), expected, within=1e-4)


@on_gpus(2)
@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("model", [SKIPS, SIDE_VALUES], ids=["skips", "side_values"])
def test_named_tensors_cross_in_a_pipeline(model: dict[str, Any], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": model, "data": {"batch": 8}, **LOCKED}
    piped = {"depth": {"method": "1f1b", "microbatches": 4}, "transport": {"kind": "grpc"}}
    launch(tiny(**{**settings, **piped}, **TWO, launch={"mode": "processes"}), tmp_path)
    assert_close(parameters_of(tmp_path, 2), plain_training(tiny(**settings)), within=1e-4)
