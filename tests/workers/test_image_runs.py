"""Image models in whole runs: equal to the unsplit model, resumable, trained and evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.losses import summed_cross_entropy
from dni.models.base import InitKind
from tests.support.pictures import digits, pictures
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.build.shapes import activation_shape
from workers.cli import evaluate
from workers.config.settings import Config
from workers.launch.launcher import launch

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
    """Return the loss of the unsplit model in evaluation mode, in nats per label."""
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
    ("model", "data", "stages", "transport", "dropout"),
    [
        *[(model, "mnist", stages, "local", 0.0) for model in LAYERS for stages in (2, 4)],
        ("mlp_bn", "cifar10", 4, "grpc", 0.0),
        ("cnn", "cifar10", 2, "grpc", 0.0),
        *[(model, "mnist", 3, "local", 0.4) for model in LAYERS],
    ],
)
def test_stages_equal_the_unsplit_model(
    model: str, data: str, stages: int, transport: str, dropout: float, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Parameters, running statistics and the validation loss agree bit for bit, also with dropout."""
    config = images(folders, model, data, stages=stages, transport={"kind": transport})
    config.model.dropout = dropout
    launch(config, tmp_path)
    expected = plain_training(config)
    assert any(name.endswith("running_var") for name in expected)
    assert_same(parameters_of(tmp_path, stages), expected)
    assert last_validation(tmp_path)["loss"] == validation_loss(config, expected)


@pytest.mark.parametrize("random", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(random: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    def config(**more: Any) -> Config:
        made = images(folders, "resnet", stages=3, steps=9, **more)
        if random:
            made.model.dropout, made.data.noise, made.model.init = 0.3, 0.2, InitKind.he
        return made

    launch(config(), tmp_path / "whole")
    launch(config(checkpoint={"every": 4, "keep": 9}), tmp_path / "saved")
    launch(config(resume=str(tmp_path / "saved"), resume_step=4), tmp_path / "part")
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "part", 3))
    assert last_validation(tmp_path / "whole")["loss"] == last_validation(tmp_path / "part")["loss"]


def test_digits_are_learned_and_every_test_image_is_evaluated(folders: dict[str, Path], tmp_path: Path) -> None:
    """Each digit is one bright column. The 20 test images are no multiple of the batch of 8."""
    config = images(folders, "mlp_bn", steps=75)
    config.model.units, config.model.layers = 32, 1
    launch(config, tmp_path)
    assert last_validation(tmp_path)["accuracy"] > 0.8
    found = evaluate.evaluate(tmp_path)
    assert (found["split"], found["labels"]) == ("test", 20)
    assert found["accuracy"] >= 0.8
    assert found["accuracy"] + found["error"] == pytest.approx(1)


def test_the_summary_names_the_data(folders: dict[str, Path], tmp_path: Path) -> None:
    config = images(folders, "cnn", "cifar10", steps=1)
    assert launch(config, tmp_path / "plain").summary["data"]["name"] == "cifar10"
    config.data.label = "CIFAR-10, JPEG q75"
    assert launch(config, tmp_path / "labelled").summary["data"]["name"] == "CIFAR-10, JPEG q75"


def test_a_stream_of_images_has_one_time_step_per_batch(folders: dict[str, Path], tmp_path: Path) -> None:
    assert launch(images(folders, "cnn", "cifar10", steps=9, max_timesteps=3), tmp_path).summary["steps"] == 3


SYNTHETIC = [
    *[("mlp_bn", kind) for kind in ("critic", "mlp", "linear")],
    *[("cnn", kind) for kind in ("critic", "mlp", "linear", "conv")],
    ("resnet", "critic"),
    ("resnet", "conv"),
]


def synthetic(folders: dict[str, Path], model: str, kind: str, **more: Any) -> Config:
    size = {} if kind == "linear" else {"hidden": 5}
    predictor = {"depth": {"kind": kind, **size, "warmup": 2, "learning_rate": 1e-3}}
    depth = {"method": "synthetic", "lag": 1}
    return images(folders, model, predictor=predictor, depth=depth, stages=3, **more)


@pytest.mark.parametrize(("model", "kind"), SYNTHETIC)
def test_every_predictor_works_with_every_model(
    model: str, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    summary = launch(synthetic(folders, model, kind, evaluate={"every": None}), tmp_path).summary
    assert all(stage["predictor_cosine"] is not None for stage in summary["stage"][:-1])
    assert 0 <= summary["valid"]["accuracy"] <= 1


@pytest.mark.parametrize(("model", "kind"), [("mlp_bn", "critic"), ("cnn", "conv")])
def test_a_run_with_a_lag_is_the_same_in_threads_and_over_grpc(
    model: str, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    for transport in ("local", "grpc"):
        launch(synthetic(folders, model, kind, transport={"kind": transport}), tmp_path / transport)
    assert_same(parameters_of(tmp_path / "local", 3), parameters_of(tmp_path / "grpc", 3))


@pytest.mark.parametrize("stash", [True, False])
def test_a_recomputed_window_counts_once_for_batch_norm(stash: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    """A window is recomputed if its gradient is late and only its input was kept, and after a resume."""

    def config(**more: Any) -> Config:
        depth = {"method": "delayed", "lag": 1, "stash": stash}
        return images(folders, "mlp_bn", depth=depth, stages=3, **more)

    launch(config(), tmp_path / "whole")
    launch(config(checkpoint={"every": 3, "keep": 9}), tmp_path / "saved")
    launch(config(resume=str(tmp_path / "saved"), resume_step=3), tmp_path / "part")
    whole = parameters_of(tmp_path / "whole", 3)
    assert [int(n) for name, n in whole.items() if "num_batches" in name] == [5] * LAYERS["mlp_bn"]
    assert_same(whole, parameters_of(tmp_path / "part", 3))


@pytest.mark.parametrize("kind", ["critic", "conv"])
def test_a_resumed_run_with_late_targets_equals_an_uninterrupted_one(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    launch(synthetic(folders, "cnn", kind, steps=9), tmp_path / "whole")
    launch(synthetic(folders, "cnn", kind, steps=4), tmp_path / "part")
    launch(synthetic(folders, "cnn", kind, steps=9, resume=str(tmp_path / "part")), tmp_path / "on")
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "on", 3))


def test_activation_shapes_are_those_of_the_model(folders: dict[str, Path]) -> None:
    config, _ = resolve(images(folders, "resnet", "cifar10", stages=4))
    x = torch.randn(2, 3, 32, 32)
    for index, chain in enumerate(build_chains(config)[:-1]):
        x, _ = chain(x)
        assert activation_shape(config, index) == tuple(x.shape[1:])


def test_a_predictor_with_too_many_weights_is_refused_before_the_start(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """A linear map of 32 x 14 x 14 features to as many, with a bias, 10 columns of labels and one for no label."""
    config = synthetic(folders, "cnn", "linear")
    config.model.split_points = ["conv2", "softmax"]
    config.model.units, features = 32, 32 * 14 * 14
    with pytest.raises(ConfigError) as refused:
        launch(config, tmp_path / "run")
    weights = f"{features * (features + 1 + 11):,}"
    assert str(refused.value) == (
        f"predictor=linear would have {weights} weights for the (32, 14, 14) feature maps of stage 0, more "
        "than 16,777,216: use predictor=conv, or predictor=critic"
    )
    assert not (tmp_path / "run").exists()
