"""optimizer.clip_norm=global: the norm over all stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.errors import DivergedError
from dni.losses import summed_cross_entropy
from dni.recurrent import reset_streams
from dni.stages.base import Stage
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.comm.edge import Target
from workers.comm.frame import Frame, Kind
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.runtime.piggyback.global_norm import GlobalNorm, NewestNorms

CLIP = 0.05
TRANSPORTS = ["local", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("grpc", "torch_distributed"))]


def run(stages: int = 3, method: str = "backprop", **changes: Any) -> Config:
    optimizer = {"clip": CLIP, "clip_norm": "global", **changes.pop("optimizer", {})}
    depth = {"method": method, **changes.pop("depth", {})}
    return tiny(stages=stages, depth=depth, optimizer=optimizer, **changes)


def unsplit(config: Config) -> dict[str, torch.Tensor]:
    """Train the whole model, with torch's own clipping of all parameters at once."""
    config, opened = resolve(config)
    (whole,) = build_chains(replace(config, stages=1))
    optimizer, state = config.optimizer.build(whole.parameters()), whole.initial_state(config.data.batch)
    for step in range(1, config.steps + 1):
        window = opened.train.next()
        scores, after = whole(window.inputs, reset_streams(state, window.reset))
        state = tuple(each.detach() for each in after)
        summed_cross_entropy(scores, window.labels).backward()
        if step % config.optimizer.accumulate:
            continue
        for parameter in whole.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(config.optimizer.accumulate * window.labels.numel())
        nn.utils.clip_grad_norm_(whole.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return dict(whole.state_dict())


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("stages", [2, 4])
def test_locked_stages_equal_torchs_clipping_of_the_unsplit_model(stages: int, transport: str, tmp_path: Path) -> None:
    config = run(stages, transport={"kind": transport})
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, stages), unsplit(config))


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_gradients_are_clipped_together(accumulate: int, tmp_path: Path) -> None:
    """Ten windows; the last update is due at a step that the end of the run or a checkpoint follows."""
    config = run(optimizer={"accumulate": accumulate})
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, 3), unsplit(config))


def test_the_norm_of_all_stages_differs_from_that_of_each(tmp_path: Path) -> None:
    launch(run(), tmp_path / "global")
    launch(run(optimizer={"clip_norm": "stage"}), tmp_path / "stage")
    a, b = (parameters_of(tmp_path / name, 3) for name in ("global", "stage"))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_a_schedule_of_the_rate_counts_for_the_step_that_waits(tmp_path: Path) -> None:
    """The rate of a step is that of its own step number, though the later stage takes it with the next frame."""
    schedule = {"schedule": {"kind": "linear", "warmup_steps": 4}}
    one, three = run(1, optimizer=schedule), run(3, optimizer=schedule)
    launch(one, tmp_path / "one")
    launch(three, tmp_path / "three")
    assert_same(parameters_of(tmp_path / "three", 3), parameters_of(tmp_path / "one", 1))


@pytest.mark.long
def test_a_resumed_run_equals_one_that_went_on(tmp_path: Path) -> None:
    for method, depth in (("backprop", {}), ("synthetic", {"lag": 1}), ("delayed", {"lag": 1})):
        plan = {"depth": depth, "optimizer": {"schedule": {"kind": "constant"}}}
        folder = tmp_path / method
        launch(run(3, method, steps=8, **plan), folder / "whole")
        launch(run(3, method, steps=4, **plan), folder / "half")
        launch(run(3, method, steps=8, resume=str(folder / "half"), **plan), folder / "resumed")
        assert_same(parameters_of(folder / "resumed", 3), parameters_of(folder / "whole", 3))


def stage(gradient: float) -> Stage:
    module = nn.Sequential(nn.Linear(1, 1, bias=False))
    module[0].weight.data.fill_(0.0)
    module[0].weight.grad = torch.tensor([[gradient]])
    return Stage(module, torch.optim.SGD(module.parameters(), 1.0))


def frame(**tensors: torch.Tensor) -> Frame:
    return Frame(Kind.STEP, 1, tensors=tensors)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_a_later_stage_takes_its_step_when_the_total_comes() -> None:
    later = stage(3.0)
    norm = GlobalNorm(later, 1, 1.0)
    later.clipping = norm
    later.update()
    assert later.module[0].weight.item() == 0
    assert norm.reply()["norms"].tolist() == [3.0]
    arrived = frame(norm=number(5.0), value=torch.ones(1))
    norm.received(arrived)
    assert later.module[0].weight.item() == pytest.approx(-3 / 5)
    assert [*arrived.tensors] == ["value"]
    assert norm.onward()["norm"].item() == 5


def test_the_first_stage_knows_the_total_at_once() -> None:
    first = stage(4.0)
    norm = GlobalNorm(first, 0, 1.0)
    first.clipping = norm
    norm.returned(Target(1, None, piggybacked={"norms": torch.tensor([3.0], dtype=torch.float64)}))
    first.update()
    assert first.module[0].weight.item() == pytest.approx(-4 / 5)
    assert first.gradient_norm == 5
    assert norm.onward()["norm"].item() == 5
    assert norm.onward() == {}


def test_stages_that_do_not_wait_use_the_newest_norms() -> None:
    """Gradient 12, with norms 3 before and 4 after: the norm of all is 13."""
    middle = stage(12.0)
    norm = NewestNorms(1.0)
    middle.clipping = norm
    norm.received(frame(norm=number(3.0)))
    norm.returned(Target(1, None, piggybacked={"norm": number(4.0)}))
    middle.update()
    assert middle.module[0].weight.item() == pytest.approx(-12 / 13)
    assert norm.onward()["norm"].item() == pytest.approx(153**0.5)
    assert norm.reply()["norm"].item() == pytest.approx(160**0.5)


@pytest.mark.parametrize("locked", [True, False])
def test_a_norm_that_is_not_finite_ends_the_run(locked: bool) -> None:
    later = stage(float("inf"))
    later.clipping = GlobalNorm(later, 1, 1.0) if locked else NewestNorms(1.0)
    with pytest.raises(DivergedError, match="the gradient norm is inf"):
        later.update()


@pytest.mark.long
@pytest.mark.parametrize("method", ["synthetic", "local", "delayed"])
def test_other_methods_train_with_it(method: str, tmp_path: Path) -> None:
    short, long = (
        launch(run(3, method, steps=steps, optimizer={"clip": 1.0}), tmp_path / str(steps)).summary for steps in (2, 60)
    )
    assert long["valid"]["loss"] < 0.95 * short["valid"]["loss"]
