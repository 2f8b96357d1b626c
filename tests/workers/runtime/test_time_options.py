"""Options of the time cut and of accumulation in whole runs: each has an effect, and survives a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.runs import assert_same, parameters_of, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

#: Number of stages, and the method in depth.
CUTS = pytest.mark.parametrize(("stages", "depth"), [(1, "backprop"), (2, "backprop"), (2, "synthetic")])

CRITIC: dict[str, Any] = {"kind": "critic", "hidden": 8, "future_labels": 2}
REGRESSOR: dict[str, Any] = {"kind": "mlp", "hidden": 8, "context": "none"}
GUESSING: dict[str, Any] = {"kind": "soft_label_critic", "history": 5, "future_labels": 9}  # 1.5 windows of labels
LAMBDA: dict[str, Any] = {"method": "lambda_return", "horizon": 3, "lambda_": 0.7}
AUXILIARY: dict[str, Any] = {"method": "auxiliary", "auxiliary": 0.5, "hidden": 8}


def run(folder: Path, stages: int, depth: str, accumulate: int = 1, **more: Any) -> Config:
    """Launch a tiny run with both predictors active from step 1; `predictor` holds settings of the time cut."""
    cut = {**more.pop("cut", CRITIC), **more.pop("predictor", {})}
    config = tiny(
        stages=stages,
        depth={"method": depth, "lag": 1 if depth == "synthetic" else None},
        time=more.pop("time", {"method": "synthetic"}),
        optimizer={"accumulate": accumulate},
        predictor={"depth": {"kind": "critic", "scale": 0.5, "clip": 1.0}, "time": cut},
        evaluate={"every": None, "windows": 1},
        **more,
    )
    launch(config, folder)
    return config


def state_of(folder: Path, step: int, stages: int) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint: parameters, predictors, optimizers and saved windows."""
    files = [checkpoint.folder_of(folder, step) / f"stage-{k}.safetensors" for k in range(stages)]
    return {f"{k}{name}": tensor for k, file in enumerate(files) for name, tensor in load_file(file).items()}


@pytest.mark.long
@CUTS
def test_every_option_changes_the_trained_parameters(stages: int, depth: str, tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "accumulate": {"accumulate": 3},
        "scale": {"predictor": {"scale": 0.1}},
        "clip": {"predictor": {"clip": 0.01}},
        "auxiliary": {"time": AUXILIARY, "predictor": {"learning_rate": 0.05}},
        "horizon": {"time": {**LAMBDA, "lambda_": 0}},
        "lambda": {"time": LAMBDA},
        "guessing": {"predictor": GUESSING, "data": {"streaming": True}},
        "regressor": {"cut": REGRESSOR},
        "regressor with context": {"cut": REGRESSOR, "predictor": {"context": "window", "history": 5}},
    }
    found = {}
    for name, settings in options.items():
        run(tmp_path / name, stages, depth, **settings)
        found[name] = torch.cat([p.flatten() for p in parameters_of(tmp_path / name, stages).values()])
    names = list(found)
    for n, name in enumerate(names):
        assert not any(torch.equal(found[name], found[other]) for other in names[:n]), name


@CUTS
@pytest.mark.parametrize("cut", [CRITIC, REGRESSOR], ids=["critic", "regressor"])
@pytest.mark.parametrize("time", [LAMBDA, AUXILIARY], ids=["horizon", "auxiliary"])
def test_a_run_saved_between_accumulated_windows_resumes_bit_for_bit(
    time: dict[str, Any], cut: dict[str, Any], stages: int, depth: str, tmp_path: Path
) -> None:
    """At step 4 the second horizon and the second optimizer step each have one window."""
    same: dict[str, Any] = {"accumulate": 3, "time": time, "cut": cut, "steps": 8}
    run(tmp_path / "whole", stages, depth, **same)
    run(tmp_path / "saved", stages, depth, **same, checkpoint={"every": 4, "keep": 9})
    saved = state_of(tmp_path / "saved", 4, stages)
    assert any("/gathered/sums/" in name for name in saved)
    assert any("/bootstrap/" in name for name in saved)
    run(tmp_path / "part", stages, depth, **same, resume=str(tmp_path / "saved"), resume_step=4)
    for folder in ("saved", "part"):
        assert_same(state_of(tmp_path / folder, 8, stages), state_of(tmp_path / "whole", 8, stages))


@CUTS
def test_a_run_saved_while_targets_wait_for_labels_resumes_bit_for_bit(stages: int, depth: str, tmp_path: Path) -> None:
    same: dict[str, Any] = {"predictor": GUESSING, "steps": 8}
    run(tmp_path / "whole", stages, depth, **same)
    run(tmp_path / "saved", stages, depth, **same, checkpoint={"every": 5, "keep": 9})
    saved = state_of(tmp_path / "saved", 5, stages)
    assert any("/bootstrap/waiting/" in name for name in saved)
    assert "0/upstream/history" in saved
    run(tmp_path / "part", stages, depth, **same, resume=str(tmp_path / "saved"), resume_step=5)
    for folder in ("saved", "part"):
        assert_same(state_of(tmp_path / folder, 8, stages), state_of(tmp_path / "whole", 8, stages))
