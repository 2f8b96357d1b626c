"""Dicts of tensors and sequences of different lengths: padding has neither loss nor influence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.data import DataContext
from dni.errors import ConfigError
from dni.losses import summed_cross_entropy
from dni.recurrent import as_chain
from tests.plugin.torch_sets import sequences
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_whole
from workers.cli.evaluate import evaluate
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.planning.measure import measure_layers
from workers.tracking.run import METRICS, read_metrics

SETS = "tests.plugin.torch_sets.sequences"
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "optimizer": {"clip": None}}
SAVED: dict[str, Any] = {"checkpoint": {"every": 4, "keep": 9}}
PROBED: dict[str, Any] = {"depth": {"method": "synthetic", "lag": 1}, "evaluate": {"probe": 4}}
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}

#: Data sets and models for them.
PAIRS = [("ragged", "attention"), ("two_lengths", "crossing"), ("described", "joined")]


def own(data: str, model: str | dict[str, Any], more: dict[str, Any] | None = None, **changes: Any) -> Config:
    sections = {
        "model": {"_target_": f"{SETS}.{model}"} if isinstance(model, str) else model,
        "data": {"_target_": f"{SETS}.{data}", "batch": 4, "window": 1, "sequence": None, **(more or {})},
    }
    return tiny(**{**sections, "stages": 3, **changes})


def trained(config: Config) -> dict[str, Tensor]:
    """Train the unsplit model by plain backpropagation, on the mean over the labels that count."""
    config, opened = resolve(config)
    whole = build_whole(config)
    optimizer = config.optimizer.build(whole.parameters())
    for _ in range(config.steps):
        window = opened.train.next()
        summed_cross_entropy(whole(window.inputs), window.labels).backward()
        for parameter in whole.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(int((window.labels >= 0).sum()))
        optimizer.step()
        optimizer.zero_grad()
    return dict(whole.state_dict())


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(("data", "model"), PAIRS)
def test_locked_training_equals_the_unsplit_model(data: str, model: str, drop_last: bool, tmp_path: Path) -> None:
    config = own(data, model, {"drop_last": drop_last}, **LOCKED)
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, 3), trained(config))


@pytest.mark.long
@pytest.mark.parametrize("method", ["synthetic", "local", "delayed"])
@pytest.mark.parametrize(("data", "model"), PAIRS)
def test_other_methods_learn_and_resume(data: str, model: str, method: str, tmp_path: Path) -> None:
    settings = {"depth": {"method": method, "lag": 1}, "optimizer": {"learning_rate": 3e-3}, **SAVED}
    first = launch(own(data, model, **settings), tmp_path / "short").summary
    later = launch(own(data, model, steps=60, **settings), tmp_path / "long").summary
    assert later["valid"]["loss"] < first["valid"]["loss"]
    launch(own(data, model, **settings, resume=str(tmp_path / "short"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "short", 3), parameters_of(tmp_path / "again", 3))


@pytest.mark.long
@pytest.mark.parametrize(("data", "model"), PAIRS)
def test_processes_equal_threads(data: str, model: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"depth": {"method": "synthetic", "lag": 1}}
    for name, more in (("threads", {}), ("processes", PROCESSES)):
        launch(own(data, model, **settings, **more), tmp_path / name)
    assert_same(parameters_of(tmp_path / "threads", 3), parameters_of(tmp_path / "processes", 3))


def test_validation_and_evaluation_equal_those_of_single_rows(tmp_path: Path) -> None:
    """A batch of one sequence is not padded."""
    summary = launch(own("ragged", "attention", **LOCKED, evaluate={"windows": None}), tmp_path).summary
    config, _ = resolve(own("ragged", "attention"))
    whole = build_whole(config)
    whole.load_state_dict(parameters_of(tmp_path, 3))
    loss, right, count = 0.0, 0, 0
    for inputs, labels in sequences.ragged("valid"):
        scores = whole({name: tensor.unsqueeze(0) for name, tensor in inputs.items()})[0]
        loss += nn.functional.cross_entropy(scores[1:], labels[1:], reduction="sum").item()
        right += int((scores[1:].argmax(-1) == labels[1:]).sum())
        count += len(labels) - 1
    assert summary["valid"]["loss"] == pytest.approx(loss / count, rel=1e-5)
    assert summary["valid"]["accuracy"] == pytest.approx(right / count)
    found = evaluate(tmp_path, "valid")
    assert (found["labels"], found["accuracy"]) == (count, pytest.approx(right / count))


def test_gradients_of_a_padded_batch_equal_those_of_single_rows() -> None:
    config, opened = resolve(own("ragged", "attention", {"shuffle": False}))
    whole = build_whole(config)
    window = opened.train.next()
    assert sorted(window.inputs) == ["mask", "symbols"]
    summed_cross_entropy(whole(window.inputs), window.labels).backward()
    padded = [parameter.grad.clone() for parameter in whole.parameters() if parameter.grad is not None]
    whole.zero_grad()
    for inputs, labels in sequences.ragged("train")[:4]:
        row = {name: tensor.unsqueeze(0) for name, tensor in inputs.items()}
        summed_cross_entropy(whole(row), labels.unsqueeze(0)).backward()
    for one, parameter in zip(padded, whole.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-5, atol=1e-6)


def test_batches_are_as_long_as_their_longest_sequence() -> None:
    source = own("ragged", "attention", {"shuffle": False}).data.located().open(DataContext(window=1)).train
    drawn = sequences.drawn("train")
    for start in (0, 4, 8):
        window, rows = source.next(), drawn[start : start + 4]
        longest = max(map(len, rows))
        assert window.labels.shape == (4, longest)
        for n, row in enumerate(rows):
            assert window.inputs["symbols"][n].tolist() == row.tolist() + (longest - len(row)) * [0]
            assert window.inputs["mask"][n].tolist() == [step < len(row) for step in range(longest)]
            assert window.labels[n, len(row) :].tolist() == (longest - len(row)) * [-1]
    assert window.steps == longest


def test_every_sequence_begins_with_a_fresh_state(tmp_path: Path) -> None:
    config = own("plain", {"kind": "lstm", "units": 8, "layers": 2}, **LOCKED)
    found = launch(config, tmp_path).summary["valid"]["loss"]
    config, opened = resolve(config)
    whole = as_chain(build_whole(config))
    whole.load_state_dict(parameters_of(tmp_path, 3))
    source, nats, labels = opened.valid(), 0.0, 0
    for window in (source.next(), source.next()):
        scores, _ = whole(window.inputs, whole.initial_state(4))
        nats += summed_cross_entropy(scores, window.labels).item()
        labels += int((window.labels >= 0).sum())
    assert found == pytest.approx(nats / labels, rel=1e-5)


@pytest.mark.parametrize("transport", ["grpc", "torch_distributed"])
def test_other_transports_carry_varying_lengths(transport: str, tmp_path: Path) -> None:
    config = own("two_lengths", "crossing", **LOCKED, transport={"kind": transport})
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, 3), trained(config))


def test_a_probe_takes_named_inputs(tmp_path: Path) -> None:
    summary = launch(own("ragged", "unmasked", **PROBED), tmp_path).summary
    assert summary["stage"][0]["predictor_cosine"] is not None
    probes = [each for each in read_metrics(tmp_path / METRICS) if each["kind"] == "probe" and each["stage"] == 0]
    assert [each["step"] for each in probes] == [4, 8]
    assert all(-1 <= each["depth_cosine"] <= 1 for each in probes)
    launch(own("ragged", "unmasked", **{**PROBED, "evaluate": {"probe": None}}), tmp_path / "without")
    assert_same(parameters_of(tmp_path, 3), parameters_of(tmp_path / "without", 3))


def test_a_plan_needs_one_tensor() -> None:
    config, _ = resolve(own("ragged", "attention"))
    with pytest.raises(ConfigError, match=r"gives the inputs symbols, mask, and only models of one tensor can be"):
        measure_layers(config)
