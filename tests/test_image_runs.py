"""Image models through the workers: split as unsplit, resumed as uninterrupted, trained and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.predictor import summed_cross_entropy
from tests.pictures import digits, pictures
from tests.runs import assert_same, parameters_of, plain_training, tiny
from workers import evaluate
from workers.build import build_chains
from workers.config import Config
from workers.launcher import launch
from workers.sources import resolve

LAYERS = {"mlp_bn": 4, "cnn": 3, "resnet": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("images")
    return {"mnist": digits(base / "digits", train=200), "cifar10": pictures(base / "pictures")}


def images(folders: dict[str, Path], model: str, data: str = "mnist", **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "model": {"kind": model, "units": 4, "layers": LAYERS[model]},
        "data": {"kind": data, "path": str(folders[data]), "batch": 8, "window": 1, "sequence": None},
        "depth": {"method": "backprop"},
        "optimizer": {"learning_rate": 1e-2, "clip": 0.05},
        "steps": 5,
    }
    return tiny(**{**settings, **changes})


@torch.no_grad()
def validation_loss(config: Config, state: dict[str, Tensor]) -> float:
    """Nats per label of the unsplit model in evaluation mode."""
    config, opened = resolve(config)
    model, source = torch.nn.Sequential(*build_chains(config)), opened.valid()
    names = [name for chain in model for name in chain.state_dict()]  # type: ignore[operator]
    model.load_state_dict({new: state[old] for new, old in zip(model.state_dict(), names, strict=True)})
    model.eval()
    nats, count = 0.0, 0
    for _ in range(config.evaluate.windows or 0):
        window = source.next()
        x = window.inputs
        for chain in model:
            x, _ = chain(x)
        nats += summed_cross_entropy(x, window.labels).item()
        count += len(window.labels)
    return nats / count


def last_validation(run_dir: Path) -> dict[str, Any]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = [record for record in records if record["kind"] == "valid"][-1]
    return found


@pytest.mark.parametrize(
    ("model", "data", "stages", "transport"),
    [
        *[(model, "mnist", stages, "local") for model in LAYERS for stages in (2, 4)],
        ("mlp_bn", "cifar10", 4, "grpc"),
        ("cnn", "cifar10", 2, "grpc"),
    ],
)
def test_stages_equal_the_unsplit_model(
    model: str, data: str, stages: int, transport: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Parameters, running statistics and the validation loss, bit for bit."""
    config = images(folders, model, data, stages=stages, transport={"kind": transport})
    launch(config, tmp_path)
    expected = plain_training(config)
    assert any(name.endswith("running_var") for name in expected)
    assert_same(parameters_of(tmp_path, stages), expected)
    assert last_validation(tmp_path)["loss"] == validation_loss(config, expected)


def test_a_resumed_run_equals_one_that_never_stopped(folders: dict[str, Path], tmp_path: Path) -> None:
    def config(**more: Any) -> Config:
        return images(folders, "resnet", stages=3, steps=9, **more)

    launch(config(), tmp_path / "whole")
    launch(config(checkpoint={"every": 4, "keep": 9}), tmp_path / "saved")
    launch(config(resume=str(tmp_path / "saved"), resume_step=4), tmp_path / "part")
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "part", 3))
    assert last_validation(tmp_path / "whole")["loss"] == last_validation(tmp_path / "part")["loss"]


def test_digits_are_learned_and_every_test_image_is_measured(folders: dict[str, Path], tmp_path: Path) -> None:
    """They differ by one bright column each: almost none of the 20 test images is missed; 20 is no multiple of 8."""
    config = images(folders, "mlp_bn", steps=75)
    config.model.units, config.model.layers = 32, 1
    launch(config, tmp_path)
    assert last_validation(tmp_path)["accuracy"] > 0.8
    found = evaluate.evaluate(tmp_path)
    assert (found["split"], found["labels"]) == ("test", 20)
    assert found["accuracy"] >= 0.8
    assert found["accuracy"] + found["error"] == 1


def test_the_summary_says_what_the_images_are_called(folders: dict[str, Path], tmp_path: Path) -> None:
    config = images(folders, "cnn", "cifar10", steps=1)
    assert launch(config, tmp_path / "plain").summary["data"]["name"] == "cifar10"
    config.data.label = "CIFAR-10, JPEG q75"
    assert launch(config, tmp_path / "labelled").summary["data"]["name"] == "CIFAR-10, JPEG q75"


def test_a_lane_of_images_runs_through_one_time_step_a_batch(folders: dict[str, Path], tmp_path: Path) -> None:
    assert launch(images(folders, "cnn", "cifar10", steps=9, lane_steps=3), tmp_path).summary["steps"] == 3
