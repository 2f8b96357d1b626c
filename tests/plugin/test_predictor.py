"""Custom predictors: trained in processes over gRPC, resumed, and refused if incomplete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.losses import summed_cross_entropy
from dni.recurrent import reset_streams
from tests.plugin.label_mean import ByLabel
from tests.support.commands import settings
from tests.support.runs import assert_near, assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.launch.launcher import launch

MODULE = "tests.plugin.label_mean"
TARGET = f"{MODULE}.ByLabel"
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
SETTINGS: dict[str, Any] = {
    "depth": {"method": "synthetic", "lag": 1}, "checkpoint": {"every": 4, "keep": 9},
    "predictor": {"depth": {"_target_": TARGET, "strength": 0.5, "learning_rate": 0.05}},
}  # fmt: skip


def by_hand(config: Config) -> dict[str, Tensor]:
    """Train without stages: half of a table replaces the gradient at the cut, and learns it late."""
    config, opened = resolve(config)
    chains = build_chains(config)
    optimizers = [config.optimizer.build(chain.parameters()) for chain in chains]
    table = torch.zeros(config.model.symbols or 0, config.model.units, requires_grad=True)
    adam = torch.optim.Adam([table], 0.05)
    states = [chain.initial_state(config.data.batch) for chain in chains]
    late: list[tuple[Tensor, Tensor]] = []
    for _ in range(config.steps):
        window = opened.train.next()
        value, after = chains[0](window.inputs, reset_streams(states[0], window.reset))
        leaf = value.detach().requires_grad_()
        output, later = chains[1](leaf, reset_streams(states[1], window.reset))
        states = [tuple(s.detach() for s in state) for state in (after, later)]
        summed_cross_entropy(output, window.labels).backward()
        value.backward(0.5 * table[window.labels].detach())
        assert leaf.grad is not None
        late.append((window.labels, leaf.grad))
        for chain, optimizer in zip(chains, optimizers, strict=True):
            for parameter in chain.parameters():
                assert parameter.grad is not None
                parameter.grad /= window.labels.numel()
            if torch.nn.utils.clip_grad_norm_(chain.parameters(), config.optimizer.clip or 0):
                optimizer.step()  # a table of zeros changes no weight
            optimizer.zero_grad()
        if len(late) > 1:
            labels, target = late.pop(0)
            adam.zero_grad()
            (0.5 * table[labels] - target).pow(2).sum(-1).mean().backward()
            adam.step()
    return {name: value for chain in chains for name, value in chain.state_dict().items()}


@pytest.mark.long
def test_trains_in_processes_and_resumes(tmp_path: Path) -> None:
    config = tiny(**SETTINGS)
    summary = launch(tiny(**SETTINGS, **PROCESSES), tmp_path / "whole").summary
    assert summary["stage"][0]["predictor_cosine"] is not None
    assert_near(parameters_of(tmp_path / "whole", 2), by_hand(config))
    again = tiny(**SETTINGS, **PROCESSES, resume=str(tmp_path / "whole"), resume_step=4)
    launch(again, tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))


def test_time_predictor_sees_its_context_labels(tmp_path: Path) -> None:
    """With strength 0 the table learns nothing: training is truncation, bit for bit. Otherwise it is not."""
    by_strength: dict[float, dict[str, Tensor]] = {}
    for strength in (0.0, 1.0):
        time = {"_target_": f"{MODULE}.ByNextLabel", "strength": strength, "learning_rate": 0.05}
        config = tiny(depth={"method": "backprop"}, time={"method": "synthetic"}, predictor={"time": time})
        assert (config.future_labels, config.history) == (1, 0)
        launch(config, tmp_path / str(strength))
        by_strength[strength] = parameters_of(tmp_path / str(strength), 2)
    launch(tiny(depth={"method": "backprop"}), tmp_path / "truncated")
    truncated = parameters_of(tmp_path / "truncated", 2)
    assert_same(by_strength[0.0], truncated)
    assert not any(torch.equal(by_strength[1.0][name], truncated[name]) for name in truncated)


@pytest.mark.parametrize("word", [f"predictor.depth._target_={TARGET}", f"predictor/depth={TARGET}"])
def test_command_names_the_class_instead_of_an_option(word: str) -> None:
    config = settings(word, "predictor.depth.strength=0.5", "predictor.depth.learning_rate=0.05")
    assert config.predictor.depth == tiny(**SETTINGS).predictor.depth
    assert config.predictor.time == settings().predictor.time


def test_settings_are_typed_recorded_and_part_of_the_run() -> None:
    config = tiny(**SETTINGS)
    assert isinstance(config.predictor.depth, ByLabel)
    assert json.loads(json.dumps(to_plain(config)))["predictor"]["depth"]["_target_"] == TARGET
    assert from_any(to_plain(config)) == config


@pytest.mark.parametrize(
    ("predictor", "says"),
    [
        ({"_target_": TARGET, "strenth": 1.0}, r"depth\.strenth: ByLabel has .* mean `predictor\.depth\.strength`"),
        ({"_target_": TARGET, "strength": "much"}, r"predictor\.depth\.strength: Value 'much' .* converted to Float"),
        ({"_target_": "no_such_module.Table"}, r"no_such_module cannot be imported .*put its folder on PYTHONPATH"),
        ({"_target_": f"{MODULE}.ByLable"}, r"has no ByLable \(did you mean `.*ByLabel`"),
        ({"_target_": f"{MODULE}.ByNextLabel"}, r"is no DepthPredictor: make it a subclass of dni\.predictors\.sett"),
        ({"_target_": f"{MODULE}.Unmarked"}, r"is no dataclass: write @dataclass above it"),
        ({"_target_": f"{MODULE}.Unfinished"}, r"lacks build, which every DepthPredictor has"),
    ],
)
def test_incomplete_classes_are_refused_in_one_line(predictor: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        tiny(predictor={"depth": predictor})
    assert "\n" not in str(refused.value)
