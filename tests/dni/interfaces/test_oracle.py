"""An oracle at every cut in time: with constant parameters, training is full backpropagation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dni.data.copy_task import CopySource
from dni.interfaces.oracle import OracleInterface
from dni.losses import summed_cross_entropy
from dni.models import Lstm, ModelContext
from dni.stages.base import Stage
from tests.support.runs import parameters_of, tiny
from workers.launch.launcher import launch


def test_full_backpropagation_with_constant_parameters() -> None:
    torch.manual_seed(0)
    model = Lstm(units=6, layers=1).build(ModelContext(CopySource.symbols, 5)).double()
    parts, whole = (CopySource(3, window, seed=0, length=15) for window in (4, None))

    stage = Stage(model, torch.optim.SGD(model.parameters()), first=True)
    cut = OracleInterface(stage.module, parts.rest)
    for step in range(parts.windows_per_sequence):
        window = parts.next()
        output, state = stage.forward(window.inputs, window.reset)
        assert state is not None
        leaf = output.requires_grad_()
        (gradient,) = torch.autograd.grad(summed_cross_entropy(leaf, window.labels), leaf)
        stage.backward(gradient, cut.gradient(step, state, None, window.done))
    in_windows = [p.grad.clone() for p in model.parameters() if p.grad is not None]

    model.zero_grad()
    window = whole.next()
    output, _ = model(window.inputs, model.initial_state(3))
    summed_cross_entropy(output, window.labels).backward()
    eager_loss = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(eager_loss) == len(in_windows) == len(list(model.parameters()))
    for a, b in zip(in_windows, eager_loss, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_run_with_an_oracle_and_one_update_per_sequence_is_full_backpropagation(tmp_path: Path) -> None:
    """Sequences of 9 steps are three windows. SGD steps without clipping add up."""

    def trained(name: str, steps: int, **more: Any) -> dict[str, Tensor]:
        config = tiny(
            steps=steps, stages=1, model={"layers": 1, "split_points": []}, evaluate={"every": None},
            data={"kind": "copy", "batch": 4, "window": 3, "length": 9}, **more,
        )  # fmt: skip
        launch(config, tmp_path / name)
        return parameters_of(tmp_path / name, 1)

    sgd = {"kind": "sgd", "learning_rate": 0.5, "clip": None}
    oracle = {"time": {"method": "oracle"}}
    by_windows = trained("oracle", 12, **oracle, optimizer={**sgd, "accumulate": 3})
    eager_loss = trained("full", 4, time={"method": "full"}, optimizer=sgd)
    truncated = trained("truncated", 12, time={"method": "truncated"}, optimizer={**sgd, "accumulate": 3})
    for name, parameter in by_windows.items():
        torch.testing.assert_close(parameter, eager_loss[name], rtol=1e-5, atol=1e-6)
    assert not all(torch.allclose(truncated[name], eager_loss[name], rtol=1e-3, atol=1e-4) for name in eager_loss)
