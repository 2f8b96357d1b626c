"""examples/: every example trains, and in locked training equals the unsplit model."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.losses import summed_cross_entropy
from dni.models import ModelContext
from dni.types import IGNORED
from tests.support.pictures import pictures
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.cli.evaluate import evaluate
from workers.config.settings import Config
from workers.launch.launcher import launch

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDERS = sorted(page.parent.name for page in EXAMPLES.glob("*/README.md"))
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "optimizer": {"clip": None}}

Import = Callable[[str, str], ModuleType]


@pytest.fixture
def import_example(monkeypatch: pytest.MonkeyPatch) -> Import:
    """Import a module of an example, here and in the processes that the test starts."""

    def imported(folder: str, module: str) -> ModuleType:
        monkeypatch.setenv("PYTHONPATH", str(EXAMPLES / folder))
        monkeypatch.syspath_prepend(EXAMPLES / folder)
        return importlib.import_module(module)

    return imported


def run(model: dict[str, Any], **changes: Any) -> Config:
    return tiny(**{"model": model, "stages": 4, "data": {"batch": 4, "window": 8, "sequence": None}, **changes})


def trained(config: Config, build: Callable[[ModelContext], Callable[[Tensor], Tensor]]) -> None:
    """Train an unsplit model by plain backpropagation, without clipping."""
    config, opened = resolve(config)
    torch.manual_seed(config.seed)
    predict = build(ModelContext(opened.symbols, opened.input_symbols, tuple(opened.input_shape or ())))
    parameters = list(predict.parameters())  # type: ignore[attr-defined]
    optimizer = config.optimizer.build(parameters)
    for _ in range(config.steps):
        window = opened.train.next()
        summed_cross_entropy(predict(window.inputs), window.labels).backward()
        for parameter in parameters:
            parameter.grad.div_(int((window.labels != IGNORED).sum()))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.long
def test_a_model_of_ones_own_equals_the_unsplit_module(import_example: Import, tmp_path: Path) -> None:
    module = import_example("own_model", "network")
    config = run({"_target_": "network.build", "width": 8, "blocks": 4}, **LOCKED, **PROCESSES)
    launch(config, tmp_path)
    built: list[nn.Module] = []

    def whole(context: ModelContext) -> Callable[[Tensor], Tensor]:
        built.append(module.build(context, width=8, blocks=4))
        return built[0]

    trained(config, whole)
    found = {name.partition(".part.")[2]: value for name, value in parameters_of(tmp_path, 4).items()}
    assert_same(found, dict(built[0].state_dict()))


class Scores(nn.Module):
    """A model of `transformers`, from symbols to scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.model(x, use_cache=False).logits
        return scores


GPT2 = {"_target_": "gpt2.parts", "layers": 4, "width": 16, "heads": 2, "positions": 8}


TIED = {**GPT2, "tie": True, "tied": "sum"}


@pytest.mark.long
@pytest.mark.parametrize("model", [GPT2, TIED], ids=["own scores", "tied"])
def test_gpt2_in_four_processes_equals_transformers_bit_for_bit(
    model: dict[str, Any], import_example: Import, tmp_path: Path
) -> None:
    gpt2 = import_example("gpt2", "gpt2")
    config = run(model, steps=10, **LOCKED, **PROCESSES)
    launch(config, tmp_path)
    built: list[nn.Module] = []

    def whole(context: ModelContext) -> Callable[[Tensor], Tensor]:
        built.append(gpt2.whole(context, layers=4, width=16, heads=2, positions=8, tie="tie" in model))
        return Scores(built[0])

    trained(config, whole)
    split, unsplit = parameters_of(tmp_path, 4), built[0].state_dict()
    for name, value in split.items():
        assert torch.equal(value, unsplit[gpt2_name(name)]), name
    assert len(split) == len(unsplit)


def gpt2_name(name: str) -> str:
    """Return the name in `GPT2LMHeadModel` of a parameter of the parts."""
    part, _, inner = name.partition(".")
    if part == "embedding":
        return f"transformer.{inner}"
    if part == "scores":
        return {"0": "transformer.ln_f", "1": "lm_head"}[inner[0]] + inner[1:]
    return f"transformer.h.{part[1:]}.{inner.partition('.')[2]}"


@pytest.mark.parametrize(
    ("method", "model"), [("synthetic", GPT2), ("local", GPT2), ("delayed", GPT2), ("synthetic", TIED)]
)
@pytest.mark.long
def test_gpt2_learns_with_other_methods(
    method: str, model: dict[str, Any], import_example: Import, tmp_path: Path
) -> None:
    import_example("gpt2", "gpt2")
    rate = {"learning_rate": 3e-3}
    short, long = (
        launch(run(model, depth={"method": method}, steps=steps, optimizer=rate), tmp_path / str(steps)).summary
        for steps in (2, 80)
    )
    assert long["valid"]["loss"] < 0.9 * short["valid"]["loss"]


@pytest.mark.long
def test_gpt2_trains_in_a_pipeline(import_example: Import, tmp_path: Path) -> None:
    import_example("gpt2", "gpt2")
    pipeline = {"method": "1f1b", "microbatches": 4}
    launch(run(GPT2, steps=10, depth=pipeline, optimizer={"clip": None}, **PROCESSES), tmp_path / "pipeline")
    launch(run(GPT2, steps=10, **LOCKED), tmp_path / "backprop")
    split, whole = (parameters_of(tmp_path / name, 4) for name in ("pipeline", "backprop"))
    assert max((split[name] - whole[name]).abs().max().item() for name in whole) < 1e-5


@pytest.mark.long
def test_gpt2_goes_on_in_two_and_then_three_stages(import_example: Import, tmp_path: Path) -> None:
    import_example("gpt2", "gpt2")
    plan = {"optimizer": {"clip": None, "schedule": {"kind": "constant"}}, "depth": {"method": "backprop"}}
    launch(run(GPT2, steps=9, **plan), tmp_path / "whole")
    launch(run(GPT2, steps=3, **plan), tmp_path / "four")
    launch(run(GPT2, steps=6, resume=str(tmp_path / "four"), **{**plan, "stages": 2}), tmp_path / "two")
    launch(run(GPT2, steps=9, resume=str(tmp_path / "two"), **{**plan, "stages": 3}), tmp_path / "three")
    assert_same(parameters_of(tmp_path / "three", 3), parameters_of(tmp_path / "whole", 4))


def test_the_gpt_of_characters_learns(import_example: Import, tmp_path: Path) -> None:
    import_example("char_gpt", "gpt")
    model = {"_target_": "gpt.parts", "layers": 2, "width": 16, "heads": 2, "context_length": 8}
    short, long = (
        launch(run(model, steps=steps, optimizer={"learning_rate": 3e-3}, depth={"method": "backprop"}),
               tmp_path / str(steps)).summary
        for steps in (2, 80)
    )  # fmt: skip
    assert long["valid"]["loss"] < 0.9 * short["valid"]["loss"]


REVERSAL: dict[str, Any] = {"_target_": "reverse.data", "batch": 16, "window": 1, "letters": 4, "longest": 5}


def reversal(**changes: Any) -> Config:
    model = {"_target_": "reverse.parts", "layers": 2, "width": 16, "heads": 2, "longest": 5}
    return run(model, **{"data": {**REVERSAL, "sequence": None}, **changes})


@pytest.mark.parametrize("more", [{}, pytest.param(PROCESSES, marks=pytest.mark.long)])
def test_the_encoder_decoder_equals_the_unsplit_model(
    more: dict[str, Any], import_example: Import, tmp_path: Path
) -> None:
    reverse = import_example("encoder_decoder", "reverse")
    launch(reversal(**LOCKED, **more), tmp_path)
    built: list[nn.Sequential] = []

    def whole(context: ModelContext) -> Callable[[Tensor], Tensor]:
        built.append(nn.Sequential(OrderedDict(reverse.parts(context, layers=2, width=16, heads=2, longest=5))))
        return built[0]

    trained(reversal(**LOCKED), whole)
    assert_same(parameters_of(tmp_path, 4), dict(built[0].state_dict()))


@pytest.mark.long
@pytest.mark.parametrize("method", ["backprop", "synthetic"])
def test_the_encoder_decoder_learns(method: str, import_example: Import, tmp_path: Path) -> None:
    """Guessing is right in a fifth of the places."""
    import_example("encoder_decoder", "reverse")
    evaluated = {"every": None, "windows": 8}
    config = reversal(depth={"method": method}, steps=200, optimizer={"learning_rate": 3e-3}, evaluate=evaluated)
    assert launch(config, tmp_path).summary["valid"]["accuracy"] > 0.5


@pytest.mark.parametrize("time", ["truncated", pytest.param("synthetic", marks=pytest.mark.long)])
def test_the_forecast_of_a_series_beats_the_naive_one(time: str, import_example: Import, tmp_path: Path) -> None:
    forecast = import_example("series", "forecast")
    naive = forecast.write(tmp_path / "series.csv", rows=3000)
    file = {"kind": "series", "path": str(tmp_path / "series.csv"), "horizon": 12}
    config = run(
        {"_target_": "forecast.Forecaster", "units": 16},
        data={**file, "batch": 4, "window": 8, "sequence": None},
        loss={"_target_": "dni.loss_function.SquaredError"},
        metrics=["dni.metrics.validation.RootMeanSquaredError"],
        time={"method": time}, predictor={"time": {"kind": "mlp", "context": "none"}},
        stages=2, steps=250, optimizer={"learning_rate": 1e-2}, evaluate={"every": None, "windows": None},
    )  # fmt: skip
    launch(config, tmp_path / "run")
    assert evaluate(tmp_path / "run")["metrics"]["rmse"] < 0.8 * naive


#: Every cut is in the middle of a residual block.
RESIDUAL = {"_target_": "resnet.parts", "width": 2, "blocks": 3, "split_points": ["close0", "close1", "close2"]}


def image_run(folder: Path, **changes: Any) -> Config:
    data = {"kind": "cifar10", "path": str(folder), "batch": 8, "window": 1, "sequence": None}
    return run(RESIDUAL, data=data, **changes)


@pytest.mark.long
def test_the_residual_net_cut_inside_its_blocks_equals_the_unsplit_net_bit_for_bit(
    import_example: Import, tmp_path: Path
) -> None:
    resnet = import_example("residual_net", "resnet")
    config = image_run(pictures(tmp_path / "data"), **LOCKED, **PROCESSES)
    launch(config, tmp_path / "run")
    built: list[nn.Module] = []

    def unsplit(context: ModelContext) -> Callable[[Tensor], Tensor]:
        built.append(resnet.whole(context, width=2, blocks=3))
        return built[0]

    trained(config, unsplit)
    found = {unsplit_name(name): value for name, value in parameters_of(tmp_path / "run", 4).items()}
    assert any(name.endswith("running_var") for name in found)
    assert_same(found, dict(built[0].state_dict()))


def unsplit_name(name: str) -> str:
    """Return the name in `resnet.whole` of a parameter or statistic of the parts."""
    part, _, inner = name.partition(".")
    places = {"stem": 0, "scores": 4}
    return f"{places[part] if part in places else 1 + int(part[-1])}.{inner}"


@pytest.mark.parametrize("method", ["synthetic", "local"])
def test_the_residual_net_learns_with_other_methods(method: str, import_example: Import, tmp_path: Path) -> None:
    import_example("residual_net", "resnet")
    data, rate = pictures(tmp_path / "data", train=400, bright=150), {"learning_rate": 1e-2}
    depth = {"method": method, "lag": 1}
    short, long = (
        launch(image_run(data, depth=depth, steps=steps, optimizer=rate), tmp_path / str(steps)).summary
        for steps in (2, 80)
    )
    assert long["valid"]["loss"] < 0.9 * short["valid"]["loss"]


def test_every_example_has_a_page() -> None:
    assert sorted(path.parent.name for path in EXAMPLES.glob("*/*.py")) == FOLDERS


@pytest.mark.long
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_command_of_a_page_runs_as_written(folder: str, import_example: Import, tmp_path: Path) -> None:
    """It takes three steps, and the pictures are made up."""
    (block,) = re.findall(r"```sh\n(.*?)```", (EXAMPLES / folder / "README.md").read_text(), re.S)
    shorter = ["steps=3", "evaluate.windows=1", f"hydra.run.dir={tmp_path / 'run'}"]
    shorter += ["optimizer.schedule.warmup_steps=1"] if "warmup_steps" in block else []
    if "data=series" in block:
        import_example("series", "forecast").write(tmp_path / "series.csv")
        shorter += [f"data.path={tmp_path / 'series.csv'}"]
    elif "data.path" in block:
        shorter += [f"data.path={pictures(tmp_path / 'data')}"]
    lines = [line for line in block.splitlines() if not line.startswith("pip install ")]
    command = " ".join([*lines[1:], *shorter]).replace("\\", "")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert lines[0] == f"cd examples/{folder}"
    subprocess.run(command, shell=True, check=True, cwd=EXAMPLES / folder, env=environment)
    assert (tmp_path / "run" / "summary.json").is_file()
