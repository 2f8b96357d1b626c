"""depth=lambda_return: mixtures of predicted and true gradients, against autograd on the unsplit network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.experimental.lambda_return_stage import LambdaReturnStage
from dni.losses import summed_cross_entropy
from dni.recurrent import pack, reset_streams
from tests.support.runs import assert_same, parameters_of, tiny
from tests.workers.runtime.test_worker import STEPS, Line, late, lost, twice
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.settings import Config
from workers.launch.launcher import launch

T_RUN = 6  # time steps of a window in the small runs


def mixed(mix: float, lag: int | None = 1, stages: int = 3, **changes: Any) -> dict[str, Any]:
    """Return settings with predictors that learn from the first step on, and soon predict non-zero gradients."""
    return {
        "stages": stages,
        "depth": {"method": "lambda_return", "max_in_flight": 8, "lag": lag, "lambda_depth": mix},
        "predictor": {
            "depth": {"kind": "critic", "learning_rate": 0.05},
            "time": {"kind": "critic", "hidden": 8, "future_labels": 2},
        },
        **changes,
    }


class Ledger:
    """Record the gradients and the targets of every cut of a line, with constant parameters of the stages."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.used: dict[tuple[str, int, int], Tensor | None] = {}
        self.targets: dict[tuple[int, int], Tensor] = {}
        for k, worker in enumerate(line.workers):
            for group in worker.stage.optimizer.param_groups:
                group["lr"] = 0.0
            self._watch("time", k, worker.time)
            if worker.downstream is not None:
                self._watch("depth", k, worker.depth)

    def _watch(self, name: str, k: int, cut: Any) -> None:
        gradient, target = cut.gradient, cut.target

        def answers(step: int, *args: Any) -> Tensor | None:
            self.used[name, k, step] = gradient(step, *args)
            return self.used[name, k, step]

        def learns(step: int, given: Tensor, *more: Any) -> None:
            if name == "depth":
                self.targets[k, step] = given
            target(step, given, *more)

        cut.gradient, cut.target = answers, learns

    def expected(self, config: Config, mix: float) -> dict[tuple[int, int], Tensor]:
        """Compute the targets by their definition, cut by cut from the loss back, with plain autograd."""
        config, opened = resolve(config)
        chains = build_chains(config)
        states = [chain.initial_state(config.data.batch) for chain in chains]
        found: dict[tuple[int, int], Tensor] = {}
        for step in range(1, STEPS + 1):
            window = opened.train.next()
            x, cuts, leaving = window.inputs, [], []
            for k, chain in enumerate(chains):
                x, after = chain(x, reset_streams(states[k], window.reset))
                states[k] = tuple(s.detach() for s in after)
                cuts.append(x)
                leaving.append(after)
            target = torch.autograd.grad(summed_cross_entropy(x, window.labels[:, :T_RUN]), cuts[-1])[0]
            for k in reversed(range(1, config.stages)):
                answer = target if k == config.stages - 1 else self.answer(k, step, target, mix)
                total = (cuts[k] * answer).sum()
                state_gradient = self.used.get(("time", k, step))  # also None without a state
                if state_gradient is not None:
                    total = total + (pack(leaving[k]) * state_gradient).sum()
                (target,) = torch.autograd.grad(total, cuts[k - 1], retain_graph=True)
                found[k - 1, step] = target
        return found

    def answer(self, k: int, step: int, target: Tensor, mix: float) -> Tensor:
        predicted = self.used["depth", k, step]
        assert predicted is not None
        return (1 - mix) * predicted + mix * target


@pytest.mark.parametrize("time", ["truncated", "synthetic"])
@pytest.mark.parametrize(("mix", "stages", "lag"), [(1.0, 3, 0), (1.0, 4, 1), (0.4, 3, 2), (0.4, 4, 1)])
def test_every_cut_learns_the_mixed_targets(mix: float, stages: int, lag: int, time: str, tmp_path: Path) -> None:
    """With m = 1 and truncation in time, targets are gradients of the unsplit network: see `whole`."""
    settings = mixed(mix, lag, stages, time={"method": time})
    line = Line(tmp_path, **{**settings, "lag": lag})
    ledger = Ledger(line)
    line.run()
    config = tiny(**settings)
    expected = ledger.expected(config, mix)
    # a cut with e edges to the loss gets no targets for its last e * lag steps
    complete = {(k, s) for k in range(stages - 1) for s in range(1, STEPS + 1 - lag * (stages - 1 - k))}
    assert ledger.targets.keys() == complete
    for key in complete:
        torch.testing.assert_close(ledger.targets[key], expected[key], rtol=2e-4, atol=1e-6)
    if mix == 1 and time == "truncated":
        exact = whole(config)
        for step in {s for k, s in complete if k == 0}:
            torch.testing.assert_close(ledger.targets[0, step], exact[step], rtol=2e-4, atol=1e-6)


def whole(config: Config) -> dict[int, Tensor]:
    """Return dL/d output of the first stage, step by step, from one graph over all stages."""
    config, opened = resolve(config)
    chains = build_chains(config)
    states = [chain.initial_state(config.data.batch) for chain in chains]
    found = {}
    for step in range(1, STEPS + 1):
        window = opened.train.next()
        x, cut = window.inputs, None
        for k, chain in enumerate(chains):
            x, after = chain(x, reset_streams(states[k], window.reset))
            states[k] = tuple(s.detach() for s in after)
            cut = x if cut is None else cut
        assert cut is not None
        (found[step],) = torch.autograd.grad(summed_cross_entropy(x, window.labels[:, :T_RUN]), cut)
    return found


@pytest.mark.parametrize("lag", [0, 2])
def test_a_target_is_so_many_steps_late_per_edge(lag: int, tmp_path: Path) -> None:
    records = launch(tiny(**mixed(0.5, lag)), tmp_path).summary
    assert [stage["staleness_mean"] for stage in records["stage"]] == [2 * lag, lag, None]


def test_without_mixing_no_window_is_kept(tmp_path: Path) -> None:
    for method, kept in (("synthetic", False), ("lambda_return", True), ("backprop", False)):
        settings = mixed(0.5, None)
        settings["depth"] = {"method": method, "max_in_flight": 8}
        line = Line(tmp_path, **settings)
        assert [isinstance(w.stage, LambdaReturnStage) for w in line.workers] == [False, kept, False]
        assert [w.downstream and w.downstream._window for w in line.workers] == [*[4 if kept else 8] * 2, None]


@pytest.mark.parametrize(("window", "faults"), [(2, []), (5, []), (5, [lost(2), lost(6)]), (6, [late(3, 1), twice(7)])])
def test_run_without_lag_keeps_at_most_w_windows(faults: Any, window: int, tmp_path: Path) -> None:
    settings = mixed(0.5, None, depth={"method": "lambda_return", "max_in_flight": window})
    line = Line(tmp_path, faults, **settings, evaluate={"every": 5, "windows": 3, "probe": 4})
    stage, held = line.workers[1].stage, []
    assert isinstance(stage, LambdaReturnStage)
    ready_replies = stage.ready_replies

    def watched() -> Any:
        held.append(len(stage.state_dict()["windows"]))
        return ready_replies()

    stage.ready_replies = watched  # type: ignore[method-assign]
    line.run()
    assert len(held) == STEPS
    assert max(held) <= window + 2
    assert line.in_flight() == [0, 0]
    for updates in line.updates():
        assert STEPS - len(faults) - 2 * window <= updates <= STEPS


@pytest.mark.parametrize("lag", [1, 3])
def test_with_a_lag_lost_targets_are_answered_without_a_gradient(lag: int, tmp_path: Path) -> None:
    """Two targets are lost on every edge; the first cut also misses those that the second cut did not get."""
    line = Line(tmp_path, [lost(4), lost(7)], **{**mixed(0.5, lag), "lag": lag})
    line.run()
    first, second = line.updates()
    assert second == STEPS - lag - 2
    assert STEPS - 2 * lag - 4 <= first <= STEPS - 2 * lag - 2
    assert line.in_flight() == [0, 0]


@pytest.mark.parametrize("time", ["truncated", "synthetic"])
@pytest.mark.long
def test_with_a_lag_a_run_does_not_depend_on_arrival_or_interruption(time: str, tmp_path: Path) -> None:
    saving = {"every": 4, "keep": 9}
    ways: dict[str, dict[str, Any]] = {
        "threads": {},
        "late": {"transport": {"kind": "grpc", "delay_ms": 3}, "evaluate": {"probe": 3}},
        "saved": {"checkpoint": saving},
        "part": {"checkpoint": saving, "resume": str(tmp_path / "saved"), "resume_step": 4},
    }
    for way, changes in ways.items():
        launch(tiny(**mixed(0.5, time={"method": time}, **changes)), tmp_path / way)
        assert_same(parameters_of(tmp_path / "threads", 3), parameters_of(tmp_path / way, 3))


def test_run_without_lag_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    settings = mixed(0.5, None, checkpoint={"every": 4, "keep": 9})
    launch(tiny(**settings), tmp_path / "saved")
    part = launch(tiny(**settings, resume=str(tmp_path / "saved"), resume_step=4), tmp_path / "part").summary
    assert part["steps"] == 10
