"""A custom method in depth: trained in processes over gRPC, resumed, and refused if incomplete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import ConfigError
from dni.losses import summed_cross_entropy
from dni.recurrent import reset_streams
from tests.plugin.sign_feedback import SignFeedback
from tests.support.runs import assert_near, assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.launch.launcher import launch

TARGET = "tests.plugin.sign_feedback.SignFeedback"
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
SETTINGS: dict[str, Any] = {"depth": {"_target_": TARGET, "strength": 0.02}, "checkpoint": {"every": 4, "keep": 9}}


def by_hand(config: Config) -> dict[str, torch.Tensor]:
    """Train without stages: replace the gradient at the cut by its sign."""
    config, opened = resolve(config)
    chains = build_chains(config)
    optimizers = [config.optimizer.build(chain.parameters()) for chain in chains]
    states = [chain.initial_state(config.data.batch) for chain in chains]
    for _ in range(config.steps):
        window = opened.train.next()
        value, after = chains[0](window.inputs, reset_streams(states[0], window.reset))
        leaf = value.detach().requires_grad_()
        output, later = chains[1](leaf, reset_streams(states[1], window.reset))
        states = [tuple(s.detach() for s in state) for state in (after, later)]
        summed_cross_entropy(output, window.labels).backward()
        assert leaf.grad is not None
        value.backward(0.02 * leaf.grad.sign())
        for chain, optimizer in zip(chains, optimizers, strict=True):
            for parameter in chain.parameters():
                assert parameter.grad is not None
                parameter.grad /= window.labels.numel()
            torch.nn.utils.clip_grad_norm_(chain.parameters(), config.optimizer.clip or 0)
            optimizer.step()
            optimizer.zero_grad()
    return {name: value for chain in chains for name, value in chain.state_dict().items()}


@pytest.mark.long
def test_trains_in_processes_and_resumes(tmp_path: Path) -> None:
    config = tiny(**SETTINGS)
    whole = launch(tiny(**SETTINGS, **PROCESSES), tmp_path / "whole").summary
    assert whole["method"]["depth"] == "SignFeedback"
    assert_near(parameters_of(tmp_path / "whole", 2), by_hand(config))
    again = tiny(**SETTINGS, **PROCESSES, resume=str(tmp_path / "whole"), resume_step=4)
    launch(again, tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))


def test_settings_are_typed_recorded_and_part_of_the_run() -> None:
    config = tiny(**SETTINGS)
    assert isinstance(config.depth, SignFeedback)
    assert json.loads(json.dumps(to_plain(config)))["depth"]["_target_"] == TARGET
    assert from_any(to_plain(config)) == config


@pytest.mark.parametrize(
    ("depth", "says"),
    [
        (
            {"_target_": TARGET, "strenth": 1.0},
            r"depth\.strenth: SignFeedback has .* \(did you mean `depth\.strength`",
        ),
        ({"_target_": TARGET, "strength": "much"}, r"depth\.strength: Value 'much' .* could not be converted to Float"),
        ({"_target_": "no_such_module.Method"}, r"no_such_module cannot be imported .*put its folder on PYTHONPATH"),
        ({"_target_": "tests.plugin.sign_feedback.SignFedback"}, r"has no SignFedback \(did you mean `.*SignFeedback`"),
        ({"_target_": "pathlib.Path"}, r"is no DepthMethod: make it a subclass of dni\.methods\.base\.DepthMethod"),
        ({"_target_": "Method"}, r"names no class: write MODULE\.CLASS, a DepthMethod"),
        ({"_target_": "tests.plugin.sign_feedback.Unmarked"}, r"is no dataclass: write @dataclass above it"),
        ({"_target_": "tests.plugin.sign_feedback.Unfinished"}, r"lacks interface, which every DepthMethod has"),
    ],
)
def test_incomplete_classes_are_refused_in_one_line(depth: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        tiny(depth=depth)
    assert "\n" not in str(refused.value)
