"""Models of a user that are no class of this package: a function that builds a module, or a list of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import ConfigError
from dni.losses import summed_cross_entropy
from dni.models import ModelContext
from tests.plugin.models.own_module import network
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from workers.build.data import resolve
from workers.cli import sample
from workers.cli.evaluate import evaluate
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.launch.accept import settle
from workers.launch.launcher import launch

OWN = "tests.plugin.models.own_module"
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "checkpoint": {"every": 4, "keep": 9}}


def own(function: str = "network", settings: dict[str, Any] | None = None, **changes: Any) -> Config:
    return tiny(**{"model": {"_target_": f"{OWN}.{function}", **(settings or {})}, "stages": 3, **changes})


def unsplit(config: Config) -> dict[str, torch.Tensor]:
    """The module that the user wrote, trained by plain backpropagation; gradients are not clipped."""
    config, opened = resolve(config)
    torch.manual_seed(config.seed)
    whole = network(ModelContext(opened.symbols, opened.input_symbols), blocks=3)
    optimizer = config.optimizer.build(whole.parameters())
    for _ in range(config.steps):
        window = opened.train.next()
        summed_cross_entropy(whole(window.inputs), window.labels).backward()
        for parameter in whole.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(window.labels.numel())
        optimizer.step()
        optimizer.zero_grad()
    return dict(whole.state_dict())


@pytest.mark.long
def test_a_traced_module_trains_in_processes_as_it_does_whole(tmp_path: Path) -> None:
    """The skip from the embedding to the scores crosses every cut beside the hidden values."""
    settings = {**LOCKED, "optimizer": {"clip": None}}
    launch(own(**settings, **PROCESSES), tmp_path)
    found = {name.partition(".part.")[2]: value for name, value in parameters_of(tmp_path, 3).items()}
    assert_same(found, unsplit(own(**settings)))
    assert evaluate(tmp_path)["labels"] > 0


@pytest.mark.long
def test_a_traced_module_is_predicted_for_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = {"depth": {"method": "synthetic", "lag": 1}, "checkpoint": {"every": 4, "keep": 9}}
    launch(own(**settings), tmp_path / "whole")
    launch(own(**settings, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "again", 3))


def test_a_traced_module_is_cut_at_named_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch(own(settings={"split_points": ["blocks_1", "blocks_2"]}, **LOCKED), tmp_path)
    names = {name.partition(".part.")[2] for name in parameters_of(tmp_path, 1)}
    assert "embed.weight" in names
    assert "blocks.0.map.weight" in names
    assert "blocks.1.map.weight" not in names
    assert sample.main([str(tmp_path), "--prompt", "a"]) == 2
    assert "model=network was traced for batches of 4, and text is written one stream" in capsys.readouterr().err


def test_a_list_of_parts_is_a_row_of_layers(tmp_path: Path) -> None:
    launch(own("parts", **LOCKED), tmp_path)
    assert_same(parameters_of(tmp_path, 3), plain_training(own("parts", **LOCKED)))


def test_the_parameters_of_a_function_are_typed_settings() -> None:
    config = own(settings={"width": 4})
    plain = to_plain(config)["model"]
    assert (plain["_target_"], plain["width"], plain["blocks"]) == (f"{OWN}.network", 4, 3)
    assert from_any(to_plain(config)) == config
    assert config.model.name == "network"
    with pytest.raises(ConfigError, match=r"model\.width: .*'wide' .* could not be converted to Integer"):
        own(settings={"width": "wide"})
    with pytest.raises(ConfigError, match=r"model\.widht: network has no such setting"):
        own(settings={"widht": 4})


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("untyped", r"untyped: the parameter width needs a type and a default to be a setting: write width: int = 128"),
        ("droppy", r"model=droppy: blocks\.2 \(Dropout\) computes something else in evaluation, .* list of parts"),
        ("branching", r"model=branching: Branching cannot be traced \(.*\): give it as an ordered list of parts"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(function: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        settle(own(function), None)
    assert "\n" not in str(refused.value)
