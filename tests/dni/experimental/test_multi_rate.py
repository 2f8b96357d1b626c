"""Multi-rate stages: their schedule, the frames they send, and training against a loop in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.experimental.multi_rate import MultiRateInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.losses import summed_cross_entropy
from dni.metrics.fit import bits
from dni.recurrent import Chain, reset_streams
from dni.types import State
from tests.support.runs import assert_same, parameters_of, tiny
from tests.workers.runtime.test_worker import STEPS, Line
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.cli.evaluate import main
from workers.comm.frame import Kind
from workers.config.settings import Config
from workers.launch.launcher import launch


class Ticking:
    """Run the unsplit model in one loop. A stage that does not tick, and all after it, are skipped."""

    def __init__(self, config: Config) -> None:
        self.config, self.data = resolve(config)
        self.chains = build_chains(self.config)
        self.optimizers = [config.optimizer.build(chain.parameters()) for chain in self.chains]

    def run(self) -> dict[str, Tensor]:
        states, waiting = self._fresh()
        for step in range(1, self.config.steps + 1):
            window = self.data.train.next()
            output = self._forward(step, window.inputs, window.reset, states, waiting)
            if output is not None:
                summed_cross_entropy(output, window.labels).backward()
                for chain, optimizer in zip(self.chains, self.optimizers, strict=True):
                    self._update(chain, optimizer, window.labels.numel())
        return {name: value for chain in self.chains for name, value in chain.state_dict().items()}

    @torch.no_grad()
    def valid(self, windows: int) -> tuple[float, float, int]:
        """Return nats per label, share of hits, and number of labels."""
        nats, right, count = 0.0, 0, 0
        source, (states, waiting) = self.data.valid(), self._fresh()
        for n in range(1, windows + 1):
            window = source.next()
            output = self._forward(n, window.inputs, window.reset, states, waiting)
            if output is not None:
                nats += summed_cross_entropy(output, window.labels).item()
                right += int((output.argmax(-1) == window.labels).sum())
                count += window.labels.numel()
        return nats / count, right / count, count

    def _fresh(self) -> tuple[list[State], list[Tensor]]:
        batch = self.config.data.batch
        waiting = [torch.zeros(batch, dtype=torch.bool) for _ in self.chains]
        return [chain.initial_state(batch) for chain in self.chains], waiting

    def _forward(self, n: int, x: Tensor, reset: Tensor, states: list[State], waiting: list[Tensor]) -> Tensor | None:
        waiting[:] = [earlier | reset for earlier in waiting]
        for k, (chain, period) in enumerate(zip(self.chains, self.config.periods, strict=True)):
            if n % period:
                return None
            x, after = chain(x, reset_streams(states[k], waiting[k]))
            states[k] = tuple(s.detach() for s in after)
            waiting[k] = torch.zeros_like(reset)
        return x

    def _update(self, chain: Chain, optimizer: torch.optim.Optimizer, labels: int) -> None:
        for parameter in chain.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(labels)
        nn.utils.clip_grad_norm_(chain.parameters(), self.config.optimizer.clip or 0.0)
        optimizer.step()
        optimizer.zero_grad()


def multi_rate(periods: list[int], **changes: Any) -> Config:
    depth = {"method": "multi_rate_backprop", "update_periods": periods, **changes.pop("depth", {})}
    return tiny(**{"stages": len(periods), "steps": 14, "depth": depth, "evaluate": {"windows": 5}, **changes})


@pytest.mark.parametrize(
    ("periods", "transport"), [([1, 2], "local"), ([1, 2], "grpc"), ([1, 1, 2], "local"), ([1, 2, 4], "local")]
)
def test_locked_stages_equal_one_loop_bit_for_bit(periods: list[int], transport: str, tmp_path: Path) -> None:
    """Sequences of three windows: every other one begins between two ticks of a stage with clock 2."""
    config = multi_rate(periods, transport={"kind": transport})
    launch(config, tmp_path)
    loop = Ticking(config)
    assert_same(loop.run(), parameters_of(tmp_path, len(periods)))
    loss, accuracy, labels = loop.valid(5)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "valid"][-1]
    assert (last["loss"], last["accuracy"]) == (pytest.approx(loss, rel=1e-6), accuracy)
    assert labels == 5 // periods[-1] * 4 * 6


def test_the_whole_validation_split_is_measured_at_the_ticks(tmp_path: Path) -> None:
    data = {"batch": 64, "window": 18, "sequence": 54}
    config = multi_rate([1, 2], steps=3, data=data, evaluate={"windows": None})
    launch(config, tmp_path)
    assert main([str(tmp_path), "--split", "valid"]) == 0
    found = json.loads((tmp_path / "evaluation-valid.json").read_text())
    loop = Ticking(config)
    loop.run()
    loss, accuracy, labels = loop.valid(loop.data.valid_windows)
    assert found["bits_per_label"] == pytest.approx(bits(loss), rel=1e-6)
    assert (found["accuracy"], found["labels"]) == (accuracy, labels)


def test_all_ones_is_the_same_as_no_periods_and_as_synthetic(tmp_path: Path) -> None:
    depth = {"lag": 1, "max_in_flight": 4}
    methods: dict[str, dict[str, Any]] = {
        "ones": {"method": "multi_rate", "update_periods": [1, 1]},
        "none": {"method": "multi_rate"},
        "synthetic": {"method": "synthetic"},
    }
    for name, method in methods.items():
        launch(tiny(stages=2, depth={**depth, **method}), tmp_path / name)
    ones, none, synthetic = (parameters_of(tmp_path / name, 2) for name in methods)
    assert_same(ones, synthetic)
    assert_same(none, synthetic)


def updates(line: Line) -> list[int]:
    """Return the updates of the predictors of the first two stages."""
    inner = [worker.depth.inner for worker in line.workers[:2] if isinstance(worker.depth, MultiRateInterface)]
    return [interface.updates for interface in inner if isinstance(interface, DecoupledInterface)]


@pytest.mark.parametrize("method", ["multi_rate", "multi_rate_backprop"])
def test_nothing_is_sent_between_ticks(method: str, tmp_path: Path) -> None:
    """Neither values nor gradients; every frame is acknowledged all the same."""
    depth = {"method": method, "max_in_flight": 4, "update_periods": [1, 2, 6]}
    line = Line(tmp_path, depth=depth, evaluate={"every": None, "windows": 7})
    line.run()
    trained = [[step for kind, step in end.values if kind is Kind.STEP] for end in line.downward]
    assert trained == [[2, 4, 6, 8, 10, 12], [6, 12]]
    assert [len([kind for kind, _ in end.values if kind is Kind.EVALUATE]) for end in line.downward] == [3, 1]
    answered = [[step for kind, step in end.sent if kind is Kind.GRADIENT] for end in line.upward]
    assert answered == trained
    for below, above in zip(line.downward, line.upward, strict=True):
        assert [step for kind, step in below.sent if kind is Kind.STEP] == list(range(1, STEPS + 1))
        assert len(below.sent) == len(above.sent)
    assert line.in_flight() == [0, 0]
    if method == "multi_rate":
        assert updates(line) == [6, 2]


@pytest.mark.parametrize(("lag", "used"), [(1, [6, 2]), (3, [5, 1])])
def test_a_lag_counts_steps(lag: int, used: list[int], tmp_path: Path) -> None:
    """Of ticks at 2, 4 ... and 12 steps in all and one more, those up to step 13 - lag are used."""
    depth = {"method": "multi_rate", "max_in_flight": 4, "lag": lag, "update_periods": [1, 2, 6]}
    line = Line(tmp_path, steps=13, depth=depth)
    line.run()
    assert updates(line) == used


@pytest.mark.parametrize(("method", "lag"), [("multi_rate", 3), ("multi_rate_backprop", None)])
def test_a_run_resumed_between_ticks_equals_one_that_went_on(method: str, lag: int | None, tmp_path: Path) -> None:
    def config(every: int | None, **more: Any) -> Config:
        return multi_rate(
            [1, 2, 4], steps=13, evaluate={"every": None, "windows": 1},
            depth={"method": method, "max_in_flight": 4, "lag": lag},
            time={"method": "lambda_return", "horizon": 2, "lambda_": 0},
            predictor={"depth": {"warmup": 1}, "time": {"kind": "mlp", "context": "none", "hidden": 4}},
            checkpoint={"every": every, "keep": 9}, **more,
        )  # fmt: skip

    launch(config(None), tmp_path / "whole")
    launch(config(7), tmp_path / "saved")
    launch(config(7, resume=str(tmp_path / "saved"), resume_step=7), tmp_path / "part")
    whole = parameters_of(tmp_path / "whole", 3)
    assert_same(whole, parameters_of(tmp_path / "saved", 3))
    assert_same(whole, parameters_of(tmp_path / "part", 3))
    records = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert any(r["kind"] == "train" and r["stage"] == 1 and r["time_cosine"] is not None for r in records)
