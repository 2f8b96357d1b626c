"""A custom optimizer and schedule: trained in processes over gRPC, resumed, stretched, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import ConfigError, ResumeError
from dni.losses import summed_cross_entropy
from dni.lr_schedule import Cosine, Linear
from dni.optimizers import SGD
from dni.recurrent import reset_streams
from tests.plugin.lion import Lion, Triangle
from tests.support.commands import settings
from tests.support.runs import assert_near, assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.launch.launcher import launch

HERE = "tests.plugin.lion"
SCHEDULE: dict[str, Any] = {"_target_": f"{HERE}.Triangle", "start": 0.25}
OWN: dict[str, Any] = {"_target_": f"{HERE}.Lion", "learning_rate": 0.02, "beta1": 0.8, "schedule": SCHEDULE}
BACKPROP: dict[str, Any] = {"depth": {"method": "backprop"}, "checkpoint": {"every": 4, "keep": 9}}
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}


def rate(step: int, steps: int) -> float:
    """Compute the share of the rate at step 1, 2, ...: 0.25, 0.5, 0.75, 1, and then a line to zero."""
    return 0.02 * (0.25 * step if step <= 3 else 1 - (step - 4) / (steps - 3))


def by_hand(config: Config, rates: list[float]) -> dict[str, torch.Tensor]:
    """Train without stages, optimizer or schedule."""
    config, opened = resolve(config)
    chains = build_chains(config)
    states = [chain.initial_state(config.data.batch) for chain in chains]
    means = {id(p): torch.zeros_like(p) for chain in chains for p in chain.parameters()}
    for now in rates:
        window = opened.train.next()
        value = window.inputs
        for k, chain in enumerate(chains):
            value, after = chain(value, reset_streams(states[k], window.reset))
            states[k] = tuple(s.detach() for s in after)
        summed_cross_entropy(value, window.labels).backward()
        for chain in chains:
            for p in chain.parameters():
                assert p.grad is not None
                p.grad /= window.labels.numel()
            torch.nn.utils.clip_grad_norm_(chain.parameters(), 1.0)
            for p in chain.parameters():
                assert p.grad is not None
                p.data -= now * (0.8 * means[id(p)] + 0.2 * p.grad).sign()
                means[id(p)] = 0.99 * means[id(p)] + 0.01 * p.grad
                p.grad = None
    return {name: value for chain in chains for name, value in chain.state_dict().items()}


@pytest.mark.long
def test_trains_in_processes_and_resumes(tmp_path: Path) -> None:
    launch(tiny(**BACKPROP, **PROCESSES, optimizer=OWN), tmp_path / "whole")
    expected = by_hand(tiny(**BACKPROP), [rate(step, 10) for step in range(1, 11)])
    assert_near(parameters_of(tmp_path / "whole", 2), expected)
    again = tiny(**BACKPROP, **PROCESSES, optimizer=OWN, resume=str(tmp_path / "whole"), resume_step=4)
    launch(again, tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))


def test_schedule_can_be_stretched(tmp_path: Path) -> None:
    launch(tiny(**BACKPROP, optimizer=OWN), tmp_path / "first")
    more: dict[str, Any] = {**BACKPROP, "steps": 14, "resume": str(tmp_path / "first")}
    with pytest.raises(ResumeError, match=r"the Triangle schedule was to end at step 10.*uses a rate of 0\.00727273\)"):
        launch(tiny(**more, optimizer=OWN), tmp_path / "refused")
    stretched = {**OWN, "schedule": {**SCHEDULE, "decay_steps": 14}}
    launch(tiny(**more, optimizer=stretched), tmp_path / "on")
    rates = [rate(step, 10 if step <= 10 else 14) for step in range(1, 15)]
    assert_near(parameters_of(tmp_path / "on", 2), by_hand(tiny(**BACKPROP, steps=14), rates))


def test_any_optimizer_of_torch_can_be_named(tmp_path: Path) -> None:
    """Train and resume with RMSprop with momentum."""
    own = {"kind": "torch", "name": "torch.optim.RMSprop", "arguments": {"alpha": 0.9, "momentum": 0.5}}
    config = tiny(**BACKPROP, optimizer=own)
    made = config.optimizer.build([torch.nn.Parameter(torch.ones(1))])
    assert isinstance(made, torch.optim.RMSprop)
    assert [made.defaults[key] for key in ("lr", "alpha", "momentum")] == [4e-3, 0.9, 0.5]
    launch(config, tmp_path / "whole")
    launch(tiny(**BACKPROP, optimizer=own, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))
    other = {**own, "arguments": {"alpha": 0.9, "momentum": 0.5, "eps": 1e-6}}
    with pytest.raises(ResumeError, match=r"optimizer\.arguments\.eps was None, now 1e-06"):
        launch(tiny(**BACKPROP, optimizer=other, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "other")


def test_settings_are_typed_recorded_and_part_of_the_run() -> None:
    config = tiny(optimizer=OWN)
    assert config.optimizer == Lion(0.02, Triangle(start=0.25), beta1=0.8)
    assert from_any(to_plain(config)) == config


def test_a_command_names_optimizer_and_schedule_by_option_or_class() -> None:
    own = settings("optimizer=sgd", "optimizer/schedule=cosine", "optimizer.schedule.warmup_steps=3").optimizer
    assert own == SGD(0.5, Cosine(warmup_steps=3), momentum=0.9)
    words = (f"optimizer={HERE}.Lion", f"optimizer.schedule._target_={HERE}.Triangle", "optimizer.schedule.peak=7")
    assert settings(*words).optimizer == Lion(schedule=Triangle(peak=7))
    assert settings(f"optimizer._target_={HERE}.Lion", "optimizer.beta1=0.5").optimizer == Lion(beta1=0.5)


def test_a_resumed_command_replaces_optimizer_or_schedule(tmp_path: Path) -> None:
    launch(tiny(optimizer=OWN), tmp_path / "run")
    resume = f"resume={tmp_path / 'run'}"
    assert settings(resume).optimizer == Lion(0.02, Triangle(start=0.25), beta1=0.8)
    assert settings(resume, "optimizer=sgd").optimizer == SGD(0.5, Triangle(start=0.25), momentum=0.9)
    assert settings(resume, "optimizer/schedule=linear").optimizer == Lion(0.02, Linear(), beta1=0.8)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ({"_target_": f"{HERE}.Lion", "beta3": 1.0}, r"^optimizer\.beta3: Lion has no .* mean `optimizer\.beta1`"),
        ({"_target_": f"{HERE}.LionSteps"}, r"is no Optimizer: make it a subclass of dni\.optimizers\.Optimizer"),
        ({"_target_": f"{HERE}.Half"}, r"Half cannot be used: the optimizer does not update 8 of the 9 .*`build`$"),
        ({"schedule": {**SCHEDULE, "peek": 2}}, r"^optimizer\.schedule\.peek: Triangle has no .*\.peak`"),
        ({"schedule": {"_target_": f"{HERE}.Lion"}}, r"is no LRSchedule: make it a subclass of dni\.lr_schedule\."),
        ({"schedule": {"_target_": f"{HERE}.Plateau"}}, r"Plateau cannot be used: TypeError: .*'metrics'.*`build`$"),
        (
            {"schedule": {**SCHEDULE, "start": 0}},
            r"Triangle cannot be used: ValueError: Starting .*\(.*, line \d+\); change its settings, or its `build`$",
        ),
        ({"schedule": "cosine"}, r"^optimizer\.schedule=cosine names no class \(it is written optimizer/schedule=NAME"),
    ],
)  # fmt: skip
def test_incomplete_classes_are_refused_in_one_line(optimizer: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        launch(tiny(optimizer=optimizer), tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
