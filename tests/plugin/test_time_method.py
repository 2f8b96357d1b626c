"""A custom method in time: trained in processes over gRPC, resumed, and refused if incomplete."""

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
from tests.plugin.echo import Echo
from tests.support.runs import assert_near, assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.launch.launcher import launch

MODULE = "tests.plugin.echo"
TARGET = f"{MODULE}.Echo"
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
SETTINGS: dict[str, Any] = {
    "depth": {"method": "backprop"}, "time": {"_target_": TARGET, "decay": 0.8}, "checkpoint": {"every": 4, "keep": 9}
}  # fmt: skip


def by_hand(config: Config) -> dict[str, Tensor]:
    """Train without stages: the gradient at a window's end is 0.8 times that at the previous window's start."""
    config, opened = resolve(config)
    chains = build_chains(config)
    optimizers = [config.optimizer.build(chain.parameters()) for chain in chains]
    states = [chain.initial_state(config.data.batch) for chain in chains]
    before: list[list[Tensor]] = []
    for _ in range(config.steps):
        window = opened.train.next()
        states = [tuple(s.detach().requires_grad_() for s in state) for state in states]
        x, ends = window.inputs, []
        for chain, state in zip(chains, states, strict=True):
            x, after = chain(x, reset_streams(state, window.reset))
            ends.append(after)
        loss = summed_cross_entropy(x, window.labels)
        leaving, entering = ([s for state in some for s in state] for some in (ends, states))
        goes_on = ~window.done
        echoes = [0.8 * g * goes_on.unsqueeze(-1) for g in before[-1]] if before else [None] * len(leaving)
        answered = [(s, echo) for s, echo in zip(leaving, echoes, strict=True) if echo is not None]
        torch.autograd.backward([loss, *(s for s, _ in answered)], [torch.ones(()), *(echo for _, echo in answered)])
        before.append([torch.zeros_like(s) if s.grad is None else s.grad for s in entering])
        for chain, optimizer in zip(chains, optimizers, strict=True):
            for parameter in chain.parameters():
                assert parameter.grad is not None
                parameter.grad /= window.labels.numel()
            torch.nn.utils.clip_grad_norm_(chain.parameters(), config.optimizer.clip or 0)
            optimizer.step()
            optimizer.zero_grad()
        states = ends
    return {name: value for chain in chains for name, value in chain.state_dict().items()}


@pytest.mark.long
def test_trains_in_processes_and_resumes(tmp_path: Path) -> None:
    config = tiny(**SETTINGS)
    whole = launch(tiny(**SETTINGS, **PROCESSES), tmp_path / "whole").summary
    assert whole["method"] == {"depth": "backprop", "time": "Echo"}
    expected = by_hand(config)
    assert_near(parameters_of(tmp_path / "whole", 2), expected)
    again = tiny(**SETTINGS, **PROCESSES, resume=str(tmp_path / "whole"), resume_step=4)
    launch(again, tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))
    launch(tiny(depth={"method": "backprop"}), tmp_path / "truncated")
    truncated = parameters_of(tmp_path / "truncated", 2)
    assert not all(torch.allclose(truncated[name], expected[name], rtol=1e-3, atol=1e-4) for name in truncated)


def test_settings_are_typed_recorded_and_part_of_the_run() -> None:
    config = tiny(**SETTINGS)
    assert isinstance(config.time, Echo)
    assert json.loads(json.dumps(to_plain(config)))["time"] == {"_target_": TARGET, "decay": 0.8}
    assert from_any(to_plain(config)) == config


def test_checks_of_gradients_in_time_apply() -> None:
    with pytest.raises(ConfigError, match="goes back too late for time=Echo: use time=truncated"):
        check(tiny(time={"_target_": TARGET}, depth={"method": "delayed"}))
    with pytest.raises(ConfigError, match="time=Echo needs a recurrent model: model=mlp carries no state"):
        check(tiny(time={"_target_": TARGET}, model={"kind": "mlp"}))


@pytest.mark.parametrize(
    ("time", "says"),
    [
        ({"_target_": TARGET, "decya": 1.0}, r"time\.decya: Echo has .* \(did you mean `time\.decay`"),
        ({"_target_": TARGET, "decay": "much"}, r"time\.decay: Value 'much' .* could not be converted to Float"),
        ({"_target_": "no_such_module.Method"}, r"no_such_module cannot be imported .*put its folder on PYTHONPATH"),
        ({"_target_": f"{MODULE}.Ecco"}, r"has no Ecco \(did you mean `.*Echo`"),
        ({"_target_": "pathlib.Path"}, r"is no TimeMethod: make it a subclass of dni\.methods\.in_time\.TimeMethod"),
        ({"_target_": f"{MODULE}.Unmarked"}, r"is no dataclass: write @dataclass above it"),
        ({"_target_": f"{MODULE}.Unfinished"}, r"lacks interface, which every TimeMethod has"),
    ],
)
def test_incomplete_classes_are_refused_in_one_line(time: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        tiny(time=time)
    assert "\n" not in str(refused.value)
