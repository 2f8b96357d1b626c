"""dni-export: the unsplit model in one file, the same losses with it, and new runs that begin with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from dni.errors import ConfigError
from dni.models import ModelContext
from tests.support.pictures import digits
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.cli.evaluate import evaluate
from workers.cli.export import main
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage.record import read_record

STILL = 1e-30  #: a rate that moves no weight, for a 32-bit number has seven digits
TEXT = "a dog sees a cat; the cat sees no dog\n"


def on_text(folder: Path, text: str = TEXT, **changes: Any) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(text * 60)
    settings: dict[str, Any] = {"steps": 8, "checkpoint": {"every": 4}, "evaluate": {"every": 4, "windows": None}}
    return tiny(**{**settings, "data": {"path": str(folder / "text.txt"), "sequence": None}, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three stages on a text, validated and saved at 4 and 8."""
    base = tmp_path_factory.mktemp("export")
    launch(on_text(base, stages=3, depth={"method": "synthetic", "lag": 1}), base / "run")
    return base / "run"


def exported(capsys: pytest.CaptureFixture[str], run_dir: Path, path: Path, *words: str) -> Path:
    assert main([str(run_dir), str(path), *words]) == 0
    assert capsys.readouterr().out.endswith(f": {path}\n")
    return path


def unsplit(config: Config, path: Path) -> nn.Sequential:
    """The model as its `build` makes it, with the weights of the file; all names must be there, and no other."""
    model = config.model
    context = ModelContext(model.symbols or 0, model.input_symbols or 0, tuple(model.input_shape or ()))
    built = model.build(context)
    built.load_state_dict(load_file(path))
    return built.eval()


@torch.no_grad()
def valid_loss(config: Config, answer: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Bits per label in the validation windows, one after another."""
    _, data = resolve(config)
    source, nats, count = data.valid(), 0.0, 0
    for _ in range(data.valid_windows):
        window = source.next()
        scores = answer(window.inputs).flatten(0, -2)
        nats += F.cross_entropy(scores, window.labels.flatten(), reduction="sum").item()
        count += window.labels.numel()
    return nats / count / math.log(2)


def test_the_unsplit_model_has_the_loss_of_the_evaluation(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, path = read_record(run), exported(capsys, run, tmp_path / "four.safetensors", "--step", "4")
    model, state = unsplit(config, path), ()

    def answer(ids: torch.Tensor) -> torch.Tensor:
        nonlocal state
        output, state = model(ids, state or model.initial_state(len(ids)))  # type: ignore[operator]
        return output  # type: ignore[no-any-return]

    assert valid_loss(config, answer) == evaluate(run, "valid", "4")["bits_per_label"]


def test_buffers_are_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"kind": "mnist", "path": str(digits(tmp_path / "digits")), "batch": 8, "window": 1, "sequence": None}
    model = {"kind": "mlp_bn", "units": 4, "layers": 3}
    config = tiny(model=model, data=data, depth={"method": "backprop"}, steps=3, stages=3, evaluate={"windows": None})
    launch(config, tmp_path / "run")
    path = exported(capsys, tmp_path / "run", tmp_path / "model.safetensors")
    config = read_record(tmp_path / "run")
    assert [name for name in load_file(path) if name.endswith("running_var")]
    model = unsplit(config, path)
    assert valid_loss(config, lambda x: model(x)[0]) == evaluate(tmp_path / "run", "valid")["bits_per_label"]


def test_the_file_says_whose_weights_it_holds(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with safe_open(exported(capsys, run, tmp_path / "last.safetensors", "--step", "last"), framework="pt") as file:
        facts = file.metadata()
    assert (facts["format"], facts["step"], facts["which"]) == ("pt", "8", "last")
    model = json.loads(facts["model"])
    assert (model["_target_"], model["units"], model["layers"]) == ("dni.models.language.Lstm", 8, 3)
    assert facts["characters"] == "".join(sorted({*TEXT}))
    assert json.loads(facts["data"])["sha256"] == read_record(run).data.sha256


def test_a_run_of_other_stages_begins_with_the_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = exported(capsys, run, tmp_path / "model.safetensors", "--step", "8")
    still = {"learning_rate": STILL}
    launch(on_text(tmp_path, stages=2, steps=2, start_from=str(path), optimizer=still, seed=5), tmp_path / "new")
    assert_same(parameters_of(tmp_path / "new", 2), parameters_of(run, 3))
    assert caplog.messages[0] == f"starting from the weights of step 8 in {path}; all predictors begin anew"
    assert read_record(tmp_path / "new").start_from == str(path)


@pytest.mark.long
def test_a_run_in_a_pipeline_begins_with_the_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(capsys, run, tmp_path / "model.safetensors", "--step", "8")
    pipeline: dict[str, Any] = {
        "depth": {"method": "1f1b"}, "time": {"method": "truncated"}, "transport": {"kind": "grpc"},
        "launch": {"mode": "processes"}, "optimizer": {"learning_rate": STILL},
    }  # fmt: skip
    launch(on_text(tmp_path, stages=2, steps=2, start_from=str(path), **pipeline), tmp_path / "new")
    assert_same(parameters_of(tmp_path / "new", 2), parameters_of(run, 3))


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert said.out == ""
    return line.removeprefix("dni-export: ")


def test_an_export_that_cannot_be_is_refused_by_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    assert refused(capsys, run, there) == f"{there} is already there: name another file, or remove it first"
    assert there.read_text() == "mine"
    assert "name the file model.pt.safetensors" in refused(capsys, run, tmp_path / "model.pt")
    assert f"there is no folder {tmp_path}/no: make it first" in refused(capsys, run, tmp_path / "no/x.safetensors")
    target = tmp_path / "x.safetensors"
    assert "no such folder; give a run folder" in refused(capsys, tmp_path / "nobody", target)
    assert "no complete checkpoint of step 5; complete steps: [4, 8]" in refused(capsys, run, target, "--step", "5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.safetensors"]


def test_a_file_of_something_else_is_refused_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(capsys, run, tmp_path / "model.safetensors", "--step", "8")
    weights = load_file(path)

    def why(name: str, content: dict[str, torch.Tensor] | bytes | None, **changes: Any) -> str:
        file = tmp_path / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is not None:
            save_file(content, file)
        with pytest.raises(ConfigError) as error:
            launch(on_text(tmp_path, **{"stages": 2, "start_from": str(file), **changes}), tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert "\n" not in str(error.value)
        return str(error.value).replace(str(tmp_path), "")

    assert why("no.safetensors", None) == (
        "start_from=/no.safetensors: no such file; give one that dni-export wrote, or the folder of a run"
    )
    assert why("text.bin", b"hello, world").startswith("start_from=/text.bin is no whole safetensors file (")
    assert why("half.safetensors", path.read_bytes()[:-9]).startswith("start_from=/half.safetensors is no whole saf")
    several = {name: value for name, value in weights.items() if not name.startswith("softmax")}
    assert "it lacks: softmax.weight, softmax.bias; set model" in why("less.safetensors", several)
    more = {**weights, "extra": torch.zeros(1)}
    assert "it has more than the model: extra; set model" in why("more.safetensors", more)
    said = why("model.safetensors", None, model={"units": 6})
    assert f"of other shapes: embedding.weight ({len({*TEXT})}, 8), here ({len({*TEXT})}, 6), " in said
    assert "set model and data as they were there (it was exported with model.units=8), or give another file" in said
    assert "leave start_step out" in why("model.safetensors", None, start_step="4")


def test_other_symbols_are_refused_though_they_are_as_many(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(capsys, run, tmp_path / "model.safetensors")
    other = on_text(tmp_path / "other", TEXT.replace("g", "x"), start_from=str(path))
    with pytest.raises(ConfigError, match=r"its text has other symbols: \['g'\] only there, \['x'\] only here; train"):
        launch(other, tmp_path / "new")
