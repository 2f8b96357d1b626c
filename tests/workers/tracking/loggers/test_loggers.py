"""Weights & Biases and MLflow, by modules that stand in for them, get what metrics.jsonl gets."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.records import plain, train, valid
from tests.support.runs import tiny
from workers.config.schema import LoggerKind
from workers.launch.launcher import launch
from workers.tracking.loggers.base import LoggedRun
from workers.tracking.loggers.build import SERVICES, loggers_of, refuse_missing_loggers
from workers.tracking.monitor import Monitor

FAKES = Path(__file__).parent / "fakes"
BEGUN = {"kind": "sitting", "stage": 0, "step": 0, "wall_s": 0.0, "id": "0123456789abcdef", "machine": "m"}


@pytest.fixture(params=["wandb", "mlflow"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoggerKind]:
    """A logger whose package is the module that stands in for it."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    yield LoggerKind[request.param]
    sys.modules.pop(request.param, None)


def calls(kind: LoggerKind) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = importlib.import_module(kind.name).CALLS
    return found


def curves(kind: LoggerKind) -> list[tuple[int, dict[str, float]]]:
    """The steps and figures that were logged."""
    if kind is LoggerKind.mlflow:
        return [told for name, told in calls(kind) if name == "log_metrics"]
    logged = [dict(told) for name, told in calls(kind) if name == "log"]
    return [(figures.pop("step"), figures) for figures in logged]


def test_a_logger_gets_the_figures_under_the_names_of_tensorboard(kind: LoggerKind, tmp_path: Path) -> None:
    run = LoggedRun(tmp_path / "mine", 2, "race", {"seed": 3, "model": {"units": 8, "split_points": ["a" * 600]}})
    with Monitor(tmp_path, 2, 40, console=plain()[0], tensorboard=False, loggers=loggers_of([kind], run)) as monitor:
        monitor(BEGUN)
        monitor(train(1, 10, loss=2.0, gradient_norm=3.0))
        monitor({"kind": "checkpoint", "stage": 1, "step": 10, "absurd": False})
        monitor(valid(20, 1.5))
    (first, figures), (second, measured) = curves(kind)
    assert (first, second) == (10, 20)
    assert figures["loss/train"] == 2.0
    assert figures["stage_1/gradient_norm"] == 3.0
    assert "stage_1/time_cosine" not in figures  # None
    assert measured["loss/validation"] == 1.5
    names = [name for name, _ in calls(kind)]
    if kind is LoggerKind.wandb:
        begun = calls(kind)[0][1]
        assert (begun["project"], begun["id"], begun["resume"]) == ("race", "0123456789abcdef", "allow")
        assert (begun["name"], begun["config"]["model"]["units"]) == ("mine", 8)
        assert names == ["init", "define_metric", "define_metric", "log", "log", "finish"]
        assert [told for _, told in calls(kind)[1:3]] == [("step", None), ("*", "step")]
    else:
        assert calls(kind)[:3] == [
            ("set_experiment", "race"), ("start_run", "mine"), ("set_tag", ("dni.id", "0123456789abcdef")),
        ]  # fmt: skip
        assert calls(kind)[3][1]["model.units"] == "8"
        assert names[3:] == ["log_params", "log_metrics", "log_metrics", "end_run"]


def test_a_run_tells_a_logger_its_settings_and_losses(kind: LoggerKind, tmp_path: Path) -> None:
    tracking = {"loggers": [kind.name], "project": "mine"}
    launch(tiny(depth={"method": "backprop"}, steps=4, log_every=2, tracking=tracking), tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [(r["step"], r["loss"]) for r in records if (r["kind"], r["stage"]) == ("train", 1)]
    assert [(step, figures["loss/train"]) for step, figures in curves(kind) if "loss/train" in figures] == losses
    assert len(losses) == 2
    if kind is LoggerKind.mlflow:
        settings = {key: value for name, told in calls(kind) if name == "log_params" for key, value in told.items()}
        assert (settings["model.units"], settings["tracking.project"]) == ("8", "mine")
    else:
        assert calls(kind)[0][1]["config"]["model"]["units"] == 8


def test_a_logger_that_fails_does_not_end_the_run(
    kind: LoggerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(*args: Any, **kwargs: Any) -> None:
        raise OSError("the server is away")

    module = importlib.import_module(kind.name)
    monkeypatch.setattr(module, "init" if kind is LoggerKind.wandb else "set_experiment", down)
    run = LoggedRun(tmp_path, 2, "race", {})
    with Monitor(tmp_path, 2, 40, console=plain()[0], tensorboard=False, loggers=loggers_of([kind], run)) as monitor:
        monitor(BEGUN)
        monitor(train(1, 10, loss=2.0))
    title = SERVICES[kind].title
    assert [f"{title} display is off for the rest of this run" in line for line in caplog.messages] == [True]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.tracking.loggers.build.find_spec", lambda package: None)
    with pytest.raises(ConfigError) as error:
        launch(tiny(tracking={"loggers": [name]}), tmp_path / "run")
    assert str(error.value) == (
        f"tracking.loggers=[{name}] needs the package {name}: pip install 'dni[{name}]' (or leave it out of "
        "tracking.loggers)"
    )
    assert not (tmp_path / "run").exists()
    refuse_missing_loggers([])
