"""A custom loss: trained in processes over gRPC and in torch's pipelines, resumed, evaluated, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional as F

from dni.errors import ConfigError, ResumeError
from tests.support.runs import assert_near, assert_same, parameters_of, plain_training, tiny
from workers.cli.evaluate import evaluate
from workers.launch.launcher import launch

OWN = "tests.plugin.smoothed"
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
SETTINGS: dict[str, Any] = {
    "loss": {"_target_": f"{OWN}.Smoothed", "share": 0.1},
    "depth": {"method": "backprop"},
    "checkpoint": {"every": 4, "keep": 9},
}


def by_torch(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), labels.flatten(), label_smoothing=0.1, reduction="sum")


@pytest.mark.long
def test_trains_in_processes_resumes_and_is_evaluated(tmp_path: Path) -> None:
    summary = launch(tiny(**SETTINGS, **PROCESSES), tmp_path / "whole").summary
    assert_near(parameters_of(tmp_path / "whole", 2), plain_training(tiny(**SETTINGS), loss=by_torch))
    again = tiny(**SETTINGS, **PROCESSES, resume=str(tmp_path / "whole"), resume_step=4)
    launch(again, tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))
    every = tiny(**SETTINGS, evaluate={"windows": None})
    measured = launch(every, tmp_path / "every").summary["valid"]["bits_per_label"]
    assert evaluate(tmp_path / "every", "valid")["bits_per_label"] == pytest.approx(measured, rel=1e-6)
    assert summary["valid"]["bits_per_label"] != measured


@pytest.mark.long
def test_a_pipeline_takes_the_same_loss(tmp_path: Path) -> None:
    piped = {**SETTINGS, "depth": {"method": "gpipe", "microbatches": 2}}
    launch(tiny(**piped, **PROCESSES), tmp_path)
    assert_near(parameters_of(tmp_path, 2), plain_training(tiny(**SETTINGS), loss=by_torch))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ({"_target_": f"{OWN}.Empty"}, r"loss\._target_=.*Empty lacks summed, which every LossFunction has"),
        ({"_target_": f"{OWN}.Smoothed", "shar": 0.1}, r"loss\.shar: Smoothed has no .* \(did you mean `loss\.share`"),
        ({"_target_": "nowhere.Loss"}, r"loss\._target_=nowhere\.Loss: nowhere cannot be imported"),
    ],
)
def test_incomplete_classes_are_refused_in_one_line(loss: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        tiny(loss=loss)
    assert "\n" not in str(refused.value)


def test_another_loss_is_another_run(tmp_path: Path) -> None:
    launch(tiny(**SETTINGS), tmp_path / "run")
    other = {**SETTINGS, "loss": {**SETTINGS["loss"], "share": 0.3}}
    with pytest.raises(ResumeError, match=r"was another run: loss\.share was 0\.1, now 0\.3"):
        launch(tiny(**other, steps=20, resume=str(tmp_path / "run")), tmp_path / "no")
