"""A custom model and data set: trained in processes over gRPC, resumed, evaluated, and refused if incomplete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.plugin.counting import Bits, Counter
from tests.support.runs import assert_near, assert_same, parameters_of, plain_training, tiny
from workers.cli.evaluate import evaluate
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.launch.accept import settle
from workers.launch.launcher import launch

OWN = "tests.plugin.counting"
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "checkpoint": {"every": 4, "keep": 9}}


def own(classes: str = "Counter Bits", **changes: Any) -> Config:
    model, data = classes.split()
    sections = {
        "model": {"_target_": f"{OWN}.{model}", "split_points": ["scores"]},
        "data": {"_target_": f"{OWN}.{data}", "bits": 2},
    }
    return tiny(**{key: value | changes.pop(key, {}) for key, value in sections.items()}, **changes)


@pytest.mark.long
def test_train_in_processes_resume_and_are_evaluated(tmp_path: Path) -> None:
    whole = launch(own(**LOCKED, **PROCESSES), tmp_path / "whole").summary
    assert whole["data"]["name"] == "bits"
    assert_near(parameters_of(tmp_path / "whole", 2), plain_training(own(**LOCKED)))
    launch(own(**LOCKED, **PROCESSES, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))
    found = evaluate(tmp_path / "again")
    assert (found["split"], found["labels"]) == ("test", 4 * 18)


def test_gradients_at_both_cuts_are_predicted(tmp_path: Path) -> None:
    """Values at the cuts have the shapes of the model's layers: 5 sums between stages, and 5 in the state."""
    config = own(
        model={"width": 5},
        time={"method": "synthetic"},
        predictor={"time": {"kind": "mlp", "context": "none", "hidden": 4}},
    )
    summary = launch(config, tmp_path).summary
    assert summary["stage"][0]["predictor_cosine"] is not None
    assert summary["stage"][0]["time_cosine"] is not None


@pytest.mark.long
def test_training_beats_chance(tmp_path: Path) -> None:
    """Vectors of one bit: the label says whether the two newest bits differ."""
    more = {"optimizer": {"learning_rate": 0.05}, "evaluate": {"every": None, "windows": None}}
    data = {"bits": 1, "batch": 32, "sequence": 24}
    launch(own(data=data, model={"width": 16}, steps=300, stages=2, **LOCKED, **more), tmp_path)
    assert evaluate(tmp_path)["accuracy"] > 0.8


def test_their_settings_are_typed_and_recorded() -> None:
    config = own()
    assert (type(config.model), type(config.data)) == (Counter, Bits)
    assert (config.model.name, config.data.name) == ("Counter", "Bits")
    assert to_plain(config)["data"]["_target_"] == f"{OWN}.Bits"
    assert from_any(to_plain(config)) == config


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("Unbuilt", "Bits", r"model\._target_=.*Unbuilt lacks build, which every Model has"),
        ("Counter", "Closed", r"data\._target_=.*Closed lacks open, which every DataSet has"),
        ("Countr", "Bits", r"has no Countr \(did you mean `tests\.plugin\.counting\.Counter`"),
        ("Bits", "Bits", r"Bits is no Model: make it a subclass of dni\.models\.base\.Model"),
        ("Stateless", "Bits", r"model=Stateless: its layers do carry state: write carries_state = True in Stateless"),
        (
            "Narrow",
            "Bits",
            r"model=Narrow gives scores of shape \[1, 2, 3\] for an example of shape \[1, 2, 2\], where data=Bits "
            r"needs \[1, 2, 2\]: its last layer must give a number for each of 2 labels at every step",
        ),
        ("Jagged", "Bits", r"model=Jagged: scores cannot take an input of shape \[1, 2, 6\]: RuntimeError: mat1 and "),
        ("Whole", "Bits", r"model=Whole: build gives a LeakySum, and must give an nn\.Sequential"),
        ("Broken", "Bits", r"model=Broken cannot be built: KeyError: 'weights' \(counting\.py, line \d+\)"),
        ("Counter", "Bare", r"data=Bare: open gives a BitsSource, and must give a dni\.data\.Data"),
    ],
)
def test_incomplete_classes_are_refused_in_one_line(model: str, data: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        settle(own(f"{model} {data}"), None)
    assert "\n" not in str(refused.value)


def test_missing_module_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\._target_=nowhere\.Data: nowhere cannot be imported"):
        tiny(data={"_target_": "nowhere.Data"})
