"""Stages that update at random steps: `depth=irregular`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.interfaces.loss import LossInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.losses import summed_cross_entropy
from dni.predictors.regressor import Regressor
from dni.recurrent import reset_streams
from dni.rng import happens
from dni.types import IGNORED
from tests.support.runs import assert_same, parameters_of, tiny
from tests.workers.runtime.test_worker import STEPS, Line
from workers.build.data import resolve
from workers.build.interfaces import goes_back
from workers.build.model import build_chains
from workers.comm.edge import Loss
from workers.comm.frame import Kind
from workers.config.settings import Config
from workers.launch.launcher import launch


def test_draws_have_their_probability_and_depend_on_seed_stage_and_step() -> None:
    """The share of 4000 draws with p = 0.3 is within four standard deviations, 4 sqrt(p (1 - p) / 4000)."""
    draws = [[happens(0.3, 7, stage, step) for step in range(1, 4001)] for stage in (0, 1)]
    for of_stage in draws:
        assert sum(of_stage) / 4000 == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 4000) ** 0.5)
    both = sum(a and b for a, b in zip(*draws, strict=True)) / 4000
    assert both == pytest.approx(0.09, abs=4 * (0.09 * 0.91 / 4000) ** 0.5)  # independent of each other
    assert (
        draws[0]
        == [happens(0.3, 7, 0, step) for step in range(1, 4001)]
        != [happens(0.3, 8, 0, step) for step in range(1, 4001)]
    )
    assert all(happens(1.0, 7, 0, step) for step in range(100))


def test_a_decoupled_interface_keeps_only_values_that_will_get_a_target() -> None:
    interface = DecoupledInterface(Regressor(2), memory=3, expects=lambda step: step % 3 == 0)
    for step in range(1, 14):
        value, labels = torch.full((1, 2), float(step)), torch.zeros(1, dtype=torch.long)
        if step % 2:
            interface.gradient(step, value, labels)
        else:
            assert interface.on_skip(step, value, labels) == []
    assert list(interface.state_dict()["sent"]) == ["6", "9", "12"]
    interface.target(11, torch.ones(1, 2))
    assert interface.updates == 0
    interface.target(12, torch.ones(1, 2))  # this stage skipped the step, but the next one did not
    assert interface.updates == 1


def test_the_last_stage_measures_the_loss_of_skipped_steps() -> None:
    scores, labels = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, IGNORED])
    loss = LossInterface()
    assert loss.on_skip(1, scores, labels) == []
    assert loss.measured is not None
    assert loss.measured == (pytest.approx(torch.log1p(torch.tensor(1.0).exp()).item()), 1)


def irregular(**changes: Any) -> dict[str, Any]:
    return {"depth": {"method": "irregular", "max_in_flight": 4, "lag": 2, "update_probability": 0.5, **changes}}


def updated_steps(config: Config, stage: int, last: int = STEPS) -> list[int]:
    """Return the steps up to `last` at which a stage updates."""
    return [step for step in range(1, last + 1) if goes_back(config, stage, step)]


def test_each_stage_updates_at_its_own_steps_and_the_previous_one_gets_those_targets(tmp_path: Path) -> None:
    line = Line(tmp_path, **irregular(), seed=1)
    config = tiny(seed=1, **irregular())
    moved: list[list[int]] = [[], [], []]
    for stage, worker in enumerate(line.workers):
        update = worker.stage.update
        step_of = worker.recorder

        def noted(*args: Any, _to: Any = moved[stage], _update: Any = update, _of: Any = step_of, **kw: Any) -> None:
            _to.append(_of.tally.steps + 1)
            _update(*args, **kw)

        worker.stage.update = noted  # type: ignore[method-assign]
    line.run()
    assert moved == [updated_steps(config, stage) for stage in range(3)]
    assert len({tuple(steps) for steps in moved}) == 3
    for stage, end in enumerate(line.upward, 1):
        answers = [pair for pair in end.sent if pair[1] <= STEPS][:STEPS]
        assert [step for kind, step in answers if kind is Kind.GRADIENT] == updated_steps(config, stage)
        assert [step for _, step in answers] == list(range(1, STEPS + 1))
    assert line.updates() == [len(updated_steps(config, stage, STEPS - 2)) for stage in (1, 2)]
    assert line.in_flight() == [0, 0]


def test_the_first_stage_receives_the_loss_of_every_step(tmp_path: Path) -> None:
    """A curriculum needs the losses of all windows. Each of the two edges delays them by lag + 1 steps."""
    line = Line(tmp_path, **irregular(update_probability=0.2), data={"kind": "copy", "sequence": None})
    received: list[Loss] = []
    finish = line.workers[0].upstream.finish

    def listening(frame: Any, gradient: Any = None, losses: Any = (), **more: Any) -> None:
        received.extend(losses)
        finish(frame, gradient, losses, **more)

    line.workers[0].upstream.finish = listening  # type: ignore[method-assign]
    line.run()
    assert [loss.step for loss in received] == list(range(1, STEPS + 1 - 2 * 3))


def test_steps_that_are_left_out_run_forward_and_count_for_nothing(tmp_path: Path) -> None:
    """Against a loop that runs every window and steps at the drawn ones; two of them make an optimizer step."""
    config, opened = resolve(
        tiny(stages=1, steps=14, optimizer={"accumulate": 2}, depth={"method": "irregular", "update_probability": 0.4})
    )
    (whole,) = build_chains(config)
    optimizer, state = config.optimizer.build(whole.parameters()), whole.initial_state(config.data.batch)
    accumulated = 0
    for step in range(1, config.steps + 1):
        window = opened.train.next()
        scores, after = whole(window.inputs, reset_streams(state, window.reset))
        state = tuple(s.detach() for s in after)
        if not happens(0.4, config.seed, 0, step):
            continue
        (summed_cross_entropy(scores, window.labels) / (2 * window.labels.numel())).backward()
        accumulated += 1
        if accumulated == 2:
            nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            accumulated = 0
    launch(config, tmp_path)
    found = parameters_of(tmp_path, 1)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("method", ["irregular", "irregular_local"])
@pytest.mark.long
def test_a_resumed_run_draws_as_one_that_went_on(method: str, tmp_path: Path) -> None:
    def config(every: int | None, **more: Any) -> Config:
        return tiny(
            stages=3, steps=16, **irregular(method=method), time={"method": "synthetic"}, optimizer={"accumulate": 2},
            predictor={"depth": {"warmup": 3}, "time": {"hidden": 8, "future_labels": 5}},
            checkpoint={"every": every, "keep": 9}, **more,
        )  # fmt: skip

    launch(config(None), tmp_path / "whole")
    launch(config(7), tmp_path / "saved")
    launch(config(7, resume=str(tmp_path / "saved"), resume_step=7), tmp_path / "part")
    whole = parameters_of(tmp_path / "whole", 3)
    assert_same(whole, parameters_of(tmp_path / "saved", 3))
    assert_same(whole, parameters_of(tmp_path / "part", 3))
