"""Layers that cannot be added: one line, exit code 2, and no folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.pictures import digits
from tests.support.runs import tiny
from workers.growth.command import main
from workers.launch.launcher import launch

OWN = "tests.workers.growth.own_layers"
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "time": {"method": "truncated"}}


def refusal(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> str:
    folder = run.parent / "larger"
    assert main([str(run), str(folder), *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert [each.name for each in run.parent.iterdir() if "larger" in each.name] == []
    return err


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of two steps of every kind of model."""
    base = tmp_path_factory.mktemp("refused")
    data = {"kind": "mnist", "path": str(digits(base / "digits")), "batch": 8, "window": 1, "sequence": None}
    settings: dict[str, dict[str, Any]] = {
        "lstm": {"model": {"layers": 2}},
        "mlp": {"model": {"kind": "mlp", "units": 4, "layers": 2}},
        "batch_norm": {"model": {"kind": "mlp_bn", "units": 4, "layers": 2}, "data": data},
        "wrong": {"model": {"_target_": f"{OWN}.wrong"}},
        "silent": {"model": {"_target_": f"{OWN}.silent"}},
    }
    for name, changes in settings.items():
        launch(tiny(**LOCKED, **changes, steps=2, evaluate={"every": None}), base / name)
    return {name: base / name for name in settings}


@pytest.mark.parametrize(
    ("run", "words", "told"),
    [
        ("lstm", ["--after", "lstm1"], "lstm2 (LSTM) cannot begin as the identity: a recurrent layer without a skip"),
        ("lstm", ["--after", "lstm1"], "model=residual or model=transformer"),
        ("lstm", ["--after", "lstm3"], "no layer lstm3 in this model: name layers of embedding, lstm1, lstm2, softmax"),
        ("lstm", ["--after", "lstm1", "model.units=9"], "cannot be equally many more after each of lstm1"),
        ("lstm", ["--after", "lstm1", "model.layers=3", "model.units=9"], "the grown model has another embedding"),
        ("lstm", ["--after", "lstm1", "optimizer.clip=1"], "optimizer.clip=1: only settings of the model change here"),
        ("lstm", ["--after", "lstm1", "model.depths=9"], "depths"),
        ("lstm", ["--after", "lstm1", "--step", "7"], "no complete checkpoint of step 7"),
        ("mlp", ["--after", "embedding"], "layer1, relu1 after embedding would change the values there by "),
        ("mlp", ["--after", "relu1,softmax"], "the grown model has another "),
        ("batch_norm", ["--after", "layer1"], "layer2.1 (BatchNorm1d) cannot begin as the identity: batch norm"),
        ("wrong", ["--after", "1", "model.count=4"], "2 after 1 would change the values there by "),
        ("wrong", ["--after", "1"], "model=wrong has no setting model.layers: add the setting that makes it larger"),
        ("silent", ["--after", "1", "model.count=4"], "2 (Silent) cannot begin as the identity: its class has no"),
    ],
)
def test_one_line_says_what_to_do(
    run: str, words: list[str], told: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, runs[run], *words)


def test_a_folder_with_a_run_is_left_alone(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs["lstm"]), str(runs["mlp"]), "--after", "lstm1"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (runs["mlp"] / "summary.json").is_file()


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), str(tmp_path / "new"), "--after", "a"]) == 2
    assert "none: no such folder; give a run folder" in capsys.readouterr().err
