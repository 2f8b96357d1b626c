"""depth=delayed: workers use true gradients when these arrive, some steps late."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.interfaces.delayed import DelayedInterface
from dni.losses import cross_entropy_gradient
from dni.recurrent import reset_streams
from dni.stages.weight_stashing import StashingStage
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from tests.workers.runtime.test_worker import STEPS, Line, late, lost, twice
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.settings import Config
from workers.launch.launcher import launch


def delayed(stages: int = 3, lag: int | None = 1, stash: bool = True, **more: Any) -> Config:
    depth = {"method": "delayed", "max_in_flight": 4, "lag": lag, "stash": stash}
    return tiny(stages=stages, depth=depth, **more)


@pytest.mark.parametrize("stash", [True, False])
@pytest.mark.parametrize("model", ["lstm", "mlp"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_without_delay_stages_equal_the_unsplit_model(stages: int, model: str, stash: bool, tmp_path: Path) -> None:
    config = delayed(stages, lag=0, stash=stash, model={"kind": model})
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, stages), plain_training(config))


def pipeline(config: Config) -> dict[str, Tensor]:
    """A reference by the definition: copy every stage at every step, and delay gradients by `lag` steps per edge."""
    config, opened = resolve(config)
    chains, lag, k_last = build_chains(config), config.depth.lag or 0, config.stages - 1
    optimizers = [config.optimizer.build(chain.parameters()) for chain in chains]
    states = [chain.initial_state(config.data.batch) for chain in chains]
    passed: dict[tuple[int, int], tuple[nn.Module, Tensor, Tensor]] = {}
    back: dict[tuple[int, int], Tensor | None] = {}
    for step in range(config.steps):
        window = opened.train.next()
        x = window.inputs
        for k, chain in enumerate(chains):
            version = copy.deepcopy(chain)
            leaf = x.detach().requires_grad_(k > 0)
            x, after = version(leaf, reset_streams(states[k], window.reset))
            states[k] = tuple(s.detach() for s in after)
            passed[k, step] = version, leaf, x
        back[k_last, step] = cross_entropy_gradient(x, window.labels)[1]
        for k in reversed(range(config.stages)):
            due = step - lag * (k_last - k)
            if due < 0:
                continue
            version, leaf, output = passed.pop((k, due))
            output.backward(back.pop((k, due)))  # type: ignore[no-untyped-call]
            back[k - 1, due] = leaf.grad
            for today, then in zip(chains[k].parameters(), version.parameters(), strict=True):
                assert then.grad is not None
                today.grad = then.grad / window.labels.numel()
            nn.utils.clip_grad_norm_(chains[k].parameters(), config.optimizer.clip or float("inf"))
            optimizers[k].step()
    return {name: value for chain in chains for name, value in chain.state_dict().items()}


@pytest.mark.parametrize(("stages", "lag"), [(2, 3), (3, 1), (3, 2)])
def test_lag_delays_gradients_per_edge(stages: int, lag: int, tmp_path: Path) -> None:
    config = delayed(stages, lag)
    records = launch(config, tmp_path).summary
    assert_same(parameters_of(tmp_path, stages), pipeline(config))
    stale = [stage["staleness_mean"] for stage in records["stage"]]
    assert stale == [*(lag * (stages - 1 - k) for k in range(stages - 1)), None]


@pytest.mark.parametrize("stash", [True, False])
def test_with_a_lag_a_run_does_not_depend_on_arrival_or_interruption(stash: bool, tmp_path: Path) -> None:
    saving = {"every": 4, "keep": 9}
    ways: dict[str, dict[str, Any]] = {
        "threads": {},
        "late": {"transport": {"kind": "grpc", "delay_ms": 3}, "evaluate": {"probe": 3}},
        "saved": {"checkpoint": saving},
        "part": {"checkpoint": saving, "resume": str(tmp_path / "saved"), "resume_step": 4},
    }
    for way, changes in ways.items():
        launch(delayed(stash=stash, optimizer={"accumulate": 2}, **changes), tmp_path / way)
        assert_same(parameters_of(tmp_path / "threads", 3), parameters_of(tmp_path / way, 3))


def line(tmp_path: Path, lag: int | None, faults: Any = (), window: int = 4) -> Line:
    depth = {"method": "delayed", "max_in_flight": window, "lag": lag}
    return Line(tmp_path, faults, depth=depth, evaluate={"every": 5, "windows": 3, "probe": 4})


def updates(workers: Line) -> list[int]:
    return [w.depth.total.updates for w in workers.workers if isinstance(w.depth, DelayedInterface)]


@pytest.mark.parametrize("window", [2, 4, 7])
def test_run_without_lag_keeps_at_most_w_steps(window: int, tmp_path: Path) -> None:
    """Gradients that are missing at the end are dropped: at most a share of W per edge."""
    free = line(tmp_path, None, window=window)
    held: list[int] = []
    for worker in free.workers[:2]:
        stage = worker.stage
        assert isinstance(stage, StashingStage)
        update = stage.update

        def watched(*args: Any, _stage: StashingStage = stage, _update: Any = update, **more: Any) -> None:
            held.append(len(_stage.state_dict()["held"]))
            _update(*args, **more)

        stage.update = watched  # type: ignore[method-assign]
    free.run()
    assert held
    assert max(held) <= window
    assert free.in_flight() == [0, 0]
    share = window // 2
    assert all(STEPS - share * edges <= n <= STEPS for n, edges in zip(updates(free), (2, 1), strict=True))


@pytest.mark.parametrize("lag", [None, 1])
@pytest.mark.parametrize("faults", [[lost(2), lost(6)], [late(3, 1), twice(7)], [twice(1), lost(STEPS - 1)]])
def test_run_ends_despite_lost_and_late_gradients(faults: Any, lag: int | None, tmp_path: Path) -> None:
    faulty = line(tmp_path, lag, faults)
    faulty.run()
    assert faulty.in_flight() == [0, 0]


@pytest.mark.parametrize(("windows", "lag", "most"), [(1, 2, 4), (3, 2, 2), (4, 2, 1), (2, 1, 1)])
def test_accumulation_bounds_the_drift_of_the_weights(
    windows: int, lag: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count the optimizer steps between the weights of a gradient and those that it updates.

    Before a stage with e later edges, gradients are d = lag e windows late. It steps every m windows, so the gradient
    of window t = 1, 2, ... crosses floor((t - 1) / m) - floor((t - 1 - d) / m) steps, at most ceil(d / m).
    """
    versions: dict[tuple[bool, int], int] = {}  # of the weights, by first stage or second, and window
    crossed: dict[bool, list[int]] = {True: [], False: []}

    class Counting(StashingStage):
        def forward(self, activation: Any, reset: Any = None, step: int = 0) -> Any:
            versions[self.first, step] = self.moved
            return super().forward(activation, reset, step)

        def backward(self, output: Any, state: Any = None, step: int = 0) -> Any:
            crossed[self.first].append(self.moved - versions[self.first, step])  # the next step uses this gradient
            return super().backward(output, state, step)

    monkeypatch.setattr("dni.methods.delayed.StashingStage", Counting)
    launch(delayed(lag=lag, steps=14, optimizer={"accumulate": windows}), tmp_path)
    for first, delay in ((True, 2 * lag), (False, lag)):
        numbers = range(14 - delay)  # t - 1
        assert crossed[first] == [n // windows - max(0, n - delay) // windows for n in numbers]
    assert max(crossed[True]) == most


def test_run_without_lag_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    launch(delayed(lag=None, checkpoint={"every": 4, "keep": 9}), tmp_path / "saved")
    part = {"resume": str(tmp_path / "saved"), "resume_step": 4}
    summary = launch(delayed(lag=None, **part), tmp_path / "part").summary
    assert summary["steps"] == 10
    assert all(0 <= stage["staleness_mean"] <= 4 for stage in summary["stage"][:2])


def test_the_oldest_two_windows_with_gradients_are_due() -> None:
    cut, value = DelayedInterface(), torch.zeros(1)
    for step in (1, 2, 3, 4):
        assert cut.ready_steps(step, value, torch.zeros(2, step, dtype=torch.long)) == []
    for step in (4, 2, 3, 9):
        cut.target(step, torch.tensor(float(step)))
    found = cut.ready_steps(5, value, torch.zeros(2, 5, dtype=torch.long))
    assert [(due.step, due.gradient, due.labels) for due in found] == [(2, 2.0, 4), (3, 3.0, 6)]
    cut.target(1, value)  # dropped
    assert [due.step for due in cut.ready_steps(6, value, torch.zeros(1, dtype=torch.long))] == [4]
    assert cut.take_recent() == {"staleness": (3 + 2 + 2) / 3}


def test_with_a_lag_early_targets_wait() -> None:
    cut, value = DelayedInterface(edges=2, lag=1), torch.zeros(1)
    assert [cut.ready_steps(step, value, value) for step in (1, 2)] == [[], []]
    assert cut.required_step(3) == 2
    for step in (1, 2):
        cut.target(step, value)
    assert [due.step for due in cut.ready_steps(3, value, value)] == [1]
    assert [due.step for due in cut.ready_steps(4, value, value)] == [2]
