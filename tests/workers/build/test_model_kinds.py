"""model=mingru and model=transformer in whole runs: they learn a task that needs memory, split or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.models import GRU, LSTM
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from workers.build.data import resolve
from workers.build.interfaces import time_interface
from workers.build.model import build_chains
from workers.build.stage import build_stage
from workers.config.settings import Config
from workers.launch.launcher import launch

KINDS = ("mingru", "transformer")


def config_of(kind: str, **changes: Any) -> Config:
    own = {"heads": 2, "memory": 8} if kind == "transformer" else {}
    model = {"kind": kind, "units": 8, "layers": 2, **own}
    return tiny(**{"model": model, "optimizer": {"learning_rate": 2e-2}, **changes})


@pytest.mark.parametrize("time", ["truncated", "synthetic"])
@pytest.mark.parametrize(("stages", "depth"), [(1, "backprop"), (2, "backprop"), (2, "synthetic")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.long
def test_it_learns_a_task_that_needs_memory(kind: str, stages: int, depth: str, time: str, tmp_path: Path) -> None:
    """In aabaab... an a follows every other a: a model of one character has a loss of 2/3 bit for each."""
    (tmp_path / "text").write_text("aab" * 300)
    config = config_of(
        kind, stages=stages, steps=60, depth={"method": depth, "lag": 1}, time={"method": time},
        data={"path": str(tmp_path / "text")}, predictor={"time": {"future_labels": 3}},
        evaluate={"every": None, "windows": 2},
    )  # fmt: skip
    summary = launch(config, tmp_path / "run").summary
    assert summary["valid"]["bits_per_label"] < 0.5


@pytest.mark.parametrize("split_points", [[], ["{}2"], ["{}1", "{}2", "softmax"]])
@pytest.mark.parametrize("kind", KINDS)
def test_stages_equal_the_unsplit_model(kind: str, split_points: list[str], tmp_path: Path) -> None:
    stages, names = len(split_points) + 1 if split_points else 2, [name.format(kind) for name in split_points]
    config = config_of(kind, stages=stages, depth={"method": "backprop"})
    config.model.split_points = names
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, stages), plain_training(config))


@pytest.mark.parametrize("kind", KINDS)
def test_full_and_checkpointed_train_alike(kind: str, tmp_path: Path) -> None:
    plain = {"kind": "sgd", "learning_rate": 0.1}  # Adam would amplify rounding of zero gradients
    for time in ("full", "checkpointed"):
        config = config_of(kind, depth={"method": "backprop"}, time={"method": time}, optimizer=plain)
        launch(config, tmp_path / time)
    full, checkpointed = (parameters_of(tmp_path / time, 2) for time in ("full", "checkpointed"))
    assert full.keys() == checkpointed.keys()
    for name in full:
        torch.testing.assert_close(full[name], checkpointed[name])


@pytest.mark.parametrize(("kind", "features"), [("mingru", 2 * 8), ("transformer", 2 * (8 * 8 + 1))])
def test_the_time_cut_predicts_the_gradient_of_the_whole_state(kind: str, features: int) -> None:
    config, _ = resolve(config_of(kind, stages=1, time={"method": "synthetic"}))
    stage = build_stage(config, 0)
    cut: Any = time_interface(config, 0, stage)
    assert cut.predictor.last.in_features == features
    _, state = stage.forward(torch.zeros(4, 6, dtype=torch.int64))
    assert state is not None
    assert state.shape == (4, features)


@pytest.mark.parametrize(("kind", "layer"), [("lstm", LSTM), ("gru", GRU)])
def test_initial_weights_are_those_of_torchs_layers_in_order(kind: str, layer: Any) -> None:
    config, data = resolve(config_of(kind, stages=1, seed=5))
    (chain,) = build_chains(config)
    torch.manual_seed(5)
    expected = [nn.Embedding(data.symbols, 8), layer(8, 8), layer(8, 8), nn.Linear(8, data.symbols)]
    values = [value for part in expected for value in part.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(chain.state_dict().values(), values, strict=True))
