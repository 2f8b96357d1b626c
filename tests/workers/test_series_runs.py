"""Regression: runs on series of vectors, in every kind of method, resumed exactly, measured, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dni.data.window import split_labels
from dni.errors import ConfigError, DivergedError
from tests.support.runs import assert_near, assert_same, parameters_of, plain_training, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.cli.evaluate import evaluate
from workers.cli.evaluate import main as dni_evaluate
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.launch.accept import settle
from workers.launch.launcher import launch
from workers.reporting.report import report
from workers.storage import checkpoint

PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}}
#: Of cuts in time: a model of the state alone.
IN_TIME: dict[str, Any] = {"time": {"method": "synthetic"}, "predictor": {"time": {"kind": "mlp", "context": "none"}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two sines and noise; the first column two rows later is what the second says now."""
    t, noise = np.arange(1200), np.random.default_rng(0).normal(size=1200)
    wave = np.sin(0.3 * t)
    np.save(tmp_path / "waves.npy", np.stack([wave, np.roll(wave, -2), noise], axis=1)[:1000])
    return tmp_path / "waves.npy"


def on_series(path: Path, **changes: Any) -> Config:
    own = {"kind": "series", "path": str(path), "targets": ["0"], "horizon": 2, "sequence": 18}
    data = own | changes.pop("data", {})
    settings = {"loss": {"_target_": "dni.loss_function.SquaredError"}, "checkpoint": {"every": 4, "keep": 9}}
    return tiny(**settings | changes, data=data)


def half_square(output: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * (output - labels).square().sum()


@pytest.mark.long
def test_they_train_in_processes_go_on_and_are_measured(path: Path, tmp_path: Path) -> None:
    summary = launch(on_series(path, **LOCKED, **PROCESSES), tmp_path / "whole").summary
    assert_near(parameters_of(tmp_path / "whole", 2), plain_training(on_series(path, **LOCKED), loss=half_square))
    launch(on_series(path, **LOCKED, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))
    assert summary["valid"].keys() == {"loss", "bits_per_label", "accuracy", "unit"}
    assert (summary["valid"]["unit"], summary["valid"]["bits_per_label"]) == ("squared error", None)
    assert summary["best"].keys() == {"step", "loss"}
    found = evaluate(tmp_path / "again")
    assert found["loss"] == pytest.approx(measured_by_hand(on_series(path), tmp_path / "again"), rel=1e-5)
    assert (found["unit"], found["labels"], found["split"]) == ("squared error", 4 * 18, "test")
    assert "bits_per_label" not in found
    assert "accuracy" not in found


def measured_by_hand(config: Config, run_dir: Path) -> float:
    """Half the mean squared error on the test part, by NumPy, of the model in the newest checkpoint."""
    config, data = resolve(config)
    chains = build_chains(config)
    for index, chain in enumerate(chains):
        state = checkpoint.load(run_dir, checkpoint.complete_steps(run_dir)[-1], index)
        chain.load_state_dict(state["stage"]["module"])
    assert data.test is not None
    source, states, sums = data.test(), [chain.initial_state(4) for chain in chains], []
    for _ in range(source.windows_per_pass):
        window = source.next()
        x = window.inputs
        with torch.no_grad():
            for k, chain in enumerate(chains):
                x, states[k] = chain(x, states[k])
        sums.append(np.square(x.numpy() - split_labels(window.inputs, window.labels)[0].numpy()).mean())
    return float(np.mean(sums)) / 2


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": {"method": "synthetic", "lag": 1}},
        {"depth": {"method": "synthetic", "lag": 1}, "precision": "bf16"},
        {
            "depth": {"method": "synthetic", "lag": 1},
            "predictor": {"depth": {"eager_loss": True, "staleness_decay": 1.0}},
        },
        {"depth": {"method": "synthetic", "lag": 1}, "predictor": {"depth": {"kind": "linear", "warmup": 0}}},
        {"depth": {"method": "synthetic", "lag": 1}, "predictor": {"depth": {"kind": "mlp"}}, "model": {"kind": "mlp"}},
        {"depth": {"method": "local"}},
        {"depth": {"method": "local", "hidden": 8}, "model": {"kind": "gru", "units": 8, "layers": 2}},
        {"depth": {"method": "delayed", "lag": 1}},
        {"depth": {"method": "lambda_return"}},
        {"depth": {"method": "replay"}},
        {"depth": {"method": "backprop"}, "time": {"method": "full"}, "model": {"kind": "transformer", "units": 8}},
        IN_TIME,
        {**IN_TIME, "depth": {"method": "local"}, "evaluate": {"probe": 4, "every": None}},
    ],
)  # fmt: skip
@pytest.mark.long
def test_every_kind_of_method_learns(path: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """A model that returns the mean has a loss of 1/2."""
    rates = {"optimizer": {"learning_rate": 0.02}, "steps": 300, "log_every": 50}
    more = {"evaluate": {"every": None, "windows": None} | changes.pop("evaluate", {}), "checkpoint": {"every": None}}
    summary = launch(on_series(path, **rates, **more, **changes), tmp_path / "run").summary
    assert summary["valid"]["loss"] < 0.1


@pytest.mark.long
def test_a_pipeline_equals_plain_training(path: Path, tmp_path: Path) -> None:
    launch(on_series(path, depth={"method": "gpipe", "microbatches": 2}, **PROCESSES), tmp_path / "run")
    assert_near(parameters_of(tmp_path / "run", 2), plain_training(on_series(path, **LOCKED), loss=half_square))


def test_records_reports_and_commands_name_the_unit(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    launch(on_series(path, **LOCKED, evaluate={"patience": 5}), run)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if record["kind"] in ("train", "valid"):
            assert record["unit"] == "squared error"
            assert record.get("bits_per_label") is None
            assert "accuracy" not in record
    best = min((record for record in records if record["kind"] == "valid"), key=lambda record: record["loss"])
    shown = capsys.readouterr().out
    assert f"validation at step 4: loss {next(r['loss'] for r in records if r['kind'] == 'valid'):.4f} squared" in shown
    assert "bits" not in shown
    assert evaluate(run, "valid")["step"] == best["step"]
    assert dni_evaluate([str(run), "--split", "valid"]) == 0
    assert " squared error, " in capsys.readouterr().out
    report([str(run)], tmp_path / "report")
    heading = (tmp_path / "report" / "table.md").read_text().splitlines()[2]
    assert "valid loss (squared error)" in heading
    assert "bits" not in heading


def test_a_run_diverges_by_ten_times_half_a_variance(path: Path, tmp_path: Path) -> None:
    """At a rate that is far too high; the mean of a target with variance one has a loss of 1/2."""
    fast: dict[str, Any] = {"optimizer": {"learning_rate": 1e4}, "evaluate": {"every": None, "windows": 1}}
    with pytest.raises(DivergedError, match=r"squared error per label on average, .* the loss of guessing \(0\.5\)"):
        launch(on_series(path, steps=150, **fast, **LOCKED), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"loss": {"_target_": "dni.loss_function.CrossEntropy"}},
            r"loss=cross_entropy needs classes as labels, and the labels of data=series are numbers: set loss=sq",
        ),
        (
            {"time": {"method": "synthetic"}},
            r"predictor\.time=critic needs classes or symbols as context, .* use predictor/time=linear or",
        ),
        (
            {"time": {"method": "synthetic"}, "predictor": {"time": {"kind": "soft_label_critic"}}},
            r"predictor\.time=soft_label_critic needs classes",
        ),
        (
            {"depth": {"method": "synthetic_inputs"}},
            r"depth=synthetic_inputs predicts inputs from symbols or",
        ),
        ({"data": {"valid_share": 0.0}}, r"data\.valid_share=0 leaves nothing to validate on"),
        ({"data": {"valid_share": 0.5, "test_share": 0.5}}, r"leave nothing to train on: set data\.valid_share=0\.1"),
        ({"data": {"path": None}}, r"data\.path is not set: data=series data\.path=FILE"),
        ({"model": {"kind": "cnn"}}, r"model=cnn reads images, and data=series gives vectors"),
    ],
)
def test_settings_that_need_classes_are_refused(path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        check(on_series(path, **changes))
    assert "\n" not in str(refused.value)


def test_a_model_has_an_output_for_each_target(path: Path) -> None:
    config, _ = settle(on_series(path, **LOCKED, data={"targets": ["0", "2"]}), None)
    assert (config.model.symbols, config.model.input_shape) == (2, [3])
    assert [*build_chains(config)[-1]._modules][-1] == "output"
    assert build_chains(config)[0][0].weight.shape == (8, 3)
