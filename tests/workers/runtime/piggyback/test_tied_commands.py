"""Tied weights in checkpoints: other cuts, weights for a new run, export, evaluation, planning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model

from dni.errors import ConfigError, PartitionError, ResumeError
from dni.losses import summed_cross_entropy
from dni.models import ModelContext
from tests.support.runs import assert_same, parameters_of, tiny
from tests.support.stages.tied_model import Network
from workers.build.data import resolve
from workers.build.model import build_chains, build_whole
from workers.cli.evaluate import evaluate
from workers.cli.export import export
from workers.config.settings import Config
from workers.launch.launcher import launch

MODEL = "tests.support.stages.tied_model.tied"
ONE, LAST = "0.weight", "3.weight"
PLAN: dict[str, Any] = {"optimizer": {"clip": None, "schedule": {"kind": "constant"}}}


def run(stages: int, tied: str = "sum", cuts: tuple[str, ...] = (), **changes: Any) -> Config:
    model = {"_target_": MODEL, "tied": tied, "split_points": list(cuts)}
    return tiny(**{"stages": stages, "model": model, "depth": {"method": "backprop"}, **PLAN, **changes})


def test_a_shared_parameter_is_refused_by_default_with_both_ways() -> None:
    config, _ = resolve(run(2, "refuse", ("2",)))
    with pytest.raises(PartitionError) as info:
        build_chains(config)
    assert str(info.value) == (
        "0.weight in stage 0 and 3.weight in stage 1 are the same parameter: set model.tied=sum (stage 0 trains it "
        "with the gradients of both) or model.tied=copy (each trains its own), or cut so that both are in one stage"
    )


def test_copies_are_equal_at_the_start_and_trained_apart(tmp_path: Path) -> None:
    config, _ = resolve(run(2, "copy", ("2",)))
    first, second = build_chains(config)
    assert torch.equal(first[0].weight, second[1].weight)
    assert first[0].weight is not second[1].weight
    launch(run(2, "copy", ("2",)), tmp_path)
    found = parameters_of(tmp_path, 2)
    assert not torch.equal(found[ONE], found[LAST])


@pytest.mark.long
@pytest.mark.parametrize(
    "optimizer", [{"clip": None}, {"clip": 0.05, "clip_norm": "global"}, {"clip": None, "kind": "muon"}]
)
def test_a_run_goes_on_in_two_and_then_three_stages(optimizer: dict[str, Any], tmp_path: Path) -> None:
    """Both layers land in one stage, where they are one parameter, and part again."""
    plan = {"optimizer": {**PLAN["optimizer"], **optimizer}}
    launch(run(4, steps=12, **plan), tmp_path / "whole")
    launch(run(4, steps=3, **plan), tmp_path / "four")
    launch(run(1, steps=6, resume=str(tmp_path / "four"), **plan), tmp_path / "one")
    launch(run(2, steps=9, resume=str(tmp_path / "one"), **plan), tmp_path / "two")
    launch(run(3, steps=12, resume=str(tmp_path / "two"), **plan), tmp_path / "three")
    assert_same(parameters_of(tmp_path / "three", 3), parameters_of(tmp_path / "whole", 4))


def test_copies_cannot_become_one_again(tmp_path: Path) -> None:
    launch(run(2, "copy", ("2",), steps=3), tmp_path / "two")
    with pytest.raises(ResumeError, match=r"0\.weight and 3\.weight were trained apart.*cut the model between them"):
        launch(run(1, "copy", steps=6, resume=str(tmp_path / "two")), tmp_path / "one")
    launch(run(3, "copy", ("1", "2"), steps=6, resume=str(tmp_path / "two")), tmp_path / "three")


@pytest.mark.long
def test_an_exported_file_has_one_tensor_that_the_unsplit_model_loads(tmp_path: Path) -> None:
    launch(run(4), tmp_path / "run")
    file = tmp_path / "weights.safetensors"
    export(tmp_path / "run", file)
    assert LAST not in load_file(file)
    whole = build_whole(resolve(run(4))[0])
    load_model(whole, file)
    found = parameters_of(tmp_path / "run", 4)
    assert torch.equal(whole[3].weight, found[LAST])
    assert whole[3].weight is whole[0].weight
    launch(run(2, start_from=str(file), steps=1, optimizer={"learning_rate": 1e-30}), tmp_path / "from_file")
    launch(run(2, start_from=str(tmp_path / "run"), steps=1, optimizer={"learning_rate": 1e-30}), tmp_path / "from_run")
    for name in ("from_file", "from_run"):
        assert_same(parameters_of(tmp_path / name, 2), found)


@pytest.mark.long
def test_evaluation_is_that_of_the_unsplit_model(tmp_path: Path) -> None:
    for stages in (1, 3):
        launch(run(stages), tmp_path / str(stages))
    one, three = (evaluate(tmp_path / str(stages), split="valid") for stages in (1, 3))
    assert three == one


def test_a_stage_of_replicas_alone_is_refused() -> None:
    config, _ = resolve(run(2, "sum", ("3",)))
    config.model = type(config.model)(**{**vars(config.model), "bias": False})
    with pytest.raises(PartitionError, match=r"stage 1 has no parameter of its own: 3\.weight belongs to an earlier"):
        build_chains(config)


@pytest.mark.parametrize(
    "setting", [{"model": {"_target_": MODEL, "tied": "sum"}}, {"optimizer": {"clip_norm": "global"}}]
)
def test_stages_that_do_not_wait_for_frames_are_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"which depth=synthetic_inputs does not wait for"):
        launch(tiny(depth={"method": "synthetic_inputs"}, **setting), tmp_path)


@pytest.mark.long
def test_a_traced_model_keeps_its_shared_parameters(tmp_path: Path) -> None:
    traced = {"_target_": "tests.support.stages.tied_model.network", "split_points": []}
    config, opened = resolve(run(3, steps=6, model={**traced, "tied": "refuse"}))
    with pytest.raises(PartitionError, match=r"embedding\.weight in stage 0 and .*scores\.weight in stage 2"):
        build_chains(config)
    launch(run(3, steps=6, model={**traced, "tied": "sum"}), tmp_path)
    torch.manual_seed(config.seed)
    whole = Network(ModelContext(opened.symbols, opened.input_symbols))
    optimizer = config.optimizer.build(whole.parameters())
    for _ in range(config.steps):
        window = opened.train.next()
        summed_cross_entropy(whole(window.inputs), window.labels).backward()
        for parameter in whole.parameters():
            parameter.grad.div_(window.labels.numel())
        optimizer.step()
        optimizer.zero_grad()
    found = {name.partition(".part.")[2]: value for name, value in parameters_of(tmp_path, 3).items()}
    assert_same(found, dict(whole.state_dict()))
