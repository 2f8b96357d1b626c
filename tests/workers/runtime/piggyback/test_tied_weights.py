"""Tied weights: split training equals the unsplit model where stages wait, and is late elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.losses import summed_cross_entropy
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_whole
from workers.config.settings import Config
from workers.launch.launcher import launch

MODEL = "tests.support.stages.tied_model.tied"
TRANSPORTS = ["local", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("grpc", "torch_distributed"))]
ONE, LAST = "0.weight", "3.weight"  # the names of the shared parameter, in stages of one layer each


def run(stages: int = 4, method: str = "backprop", **changes: Any) -> Config:
    changes = {"optimizer": {"clip": 0.05}, **changes}
    model = {"_target_": MODEL, "tied": "sum", **changes.pop("model", {})}
    depth = {"method": method, **changes.pop("depth", {})}
    return tiny(stages=stages, model=model, depth=depth, **changes)


def unsplit(config: Config, cuts: list[int]) -> dict[str, Tensor]:
    """Train the whole model as one; gradients are clipped by those layers that are one stage, in which cuts begin."""
    config, opened = resolve(config)
    whole = build_whole(config)
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    optimizer = config.optimizer.build(whole.parameters())
    clipped: set[int] = set()
    groups = []
    for part in parts:
        groups.append([p for p in part.parameters() if id(p) not in clipped])
        clipped |= {id(p) for p in groups[-1]}
    for step in range(1, config.steps + 1):
        window = opened.train.next()
        summed_cross_entropy(whole(window.inputs), window.labels).backward()
        if step % config.optimizer.accumulate:
            continue
        for parameter in whole.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(config.optimizer.accumulate * window.labels.numel())
        for group in groups if config.optimizer.clip_norm.name == "stage" else [list(whole.parameters())]:
            nn.utils.clip_grad_norm_(group, config.optimizer.clip or torch.inf)
        optimizer.step()
        optimizer.zero_grad()
    return dict(whole.state_dict())


CUTS = {2: [2], 3: [1, 2], 4: [1, 2, 3]}


def split(config: Config, folder: Path) -> dict[str, Tensor]:
    config.model.split_points = [str(cut) for cut in CUTS[config.stages]]
    launch(config, folder)
    return parameters_of(folder, config.stages)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_locked_stages_equal_the_unsplit_model_bit_for_bit(stages: int, transport: str, tmp_path: Path) -> None:
    config = run(stages, transport={"kind": transport})
    found = split(config, tmp_path)
    assert_same(found, unsplit(config, CUTS[stages]))
    assert torch.equal(found[ONE], found[LAST])


@pytest.mark.parametrize(
    "optimizer",
    [{"accumulate": 3}, {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.1}, {"clip_norm": "global"}],
)
def test_they_do_with_accumulation_momentum_decay_and_the_norm_of_all_stages(
    optimizer: dict[str, Any], tmp_path: Path
) -> None:
    config = run(optimizer={"clip": 0.05, **optimizer})
    assert_same(split(config, tmp_path), unsplit(config, CUTS[4]))


def test_a_third_use_between_is_summed_on_the_way(tmp_path: Path) -> None:
    config = run(model={"uses": 3})
    assert_same(split(config, tmp_path), unsplit(config, CUTS[4]))


def test_gradients_of_the_same_step_have_no_delay(tmp_path: Path) -> None:
    config = run()
    config.model.split_points = ["1", "2", "3"]
    stages = launch(config, tmp_path).summary["stage"]
    assert stages[0]["tied_delay_steps"] == 0
    assert all("tied_delay_steps" not in stage for stage in stages[1:])


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "depth"), [("backprop", {}), ("synthetic", {"lag": 1}), ("local", {"lag": 1}), ("delayed", {"lag": 1})]
)
def test_a_resumed_run_equals_one_that_went_on(method: str, depth: dict[str, Any], tmp_path: Path) -> None:
    plan = {"depth": depth, "optimizer": {"clip": 1.0, "schedule": {"kind": "constant"}}}
    launch(run(4, method, steps=8, **plan), tmp_path / "whole")
    launch(run(4, method, steps=4, **plan), tmp_path / "half")
    launch(run(4, method, steps=8, resume=str(tmp_path / "half"), **plan), tmp_path / "resumed")
    assert_same(parameters_of(tmp_path / "resumed", 4), parameters_of(tmp_path / "whole", 4))


@pytest.mark.long
@pytest.mark.parametrize("method", ["synthetic", "local", "delayed"])
def test_late_gradients_train_the_owner(method: str, tmp_path: Path) -> None:
    rate = {"clip": 1.0, "learning_rate": 1e-2}
    summaries = [
        launch(run(4, method, steps=steps, optimizer=rate, depth={"lag": 1}), tmp_path / str(steps)).summary
        for steps in (2, 60)
    ]
    assert summaries[1]["valid"]["loss"] < 0.85 * summaries[0]["valid"]["loss"]
    assert summaries[1]["stage"][0]["tied_delay_steps"] == (3 if method == "delayed" else 6)
    found = parameters_of(tmp_path / "60", 4)
    assert torch.equal(found[ONE], found[LAST])
