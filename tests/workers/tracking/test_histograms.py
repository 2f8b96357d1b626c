"""Histograms of activations and gradients, and the settings as text, in TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator
from torch import nn

from dni.stages.base import Stage
from tests.support.runs import tiny
from workers.launch.launcher import launch
from workers.tracking.histograms import BINS, Histograms, histogram


def test_a_histogram_counts_every_number() -> None:
    """0, 1, ... 63 in 64 bins between 0 and 63: one in each."""
    found = histogram([torch.arange(40.0), torch.arange(40.0, 64.0)])
    assert found is not None
    assert (found["min"], found["max"], found["num"]) == (0.0, 63.0, 64)
    assert (found["sum"], found["sum_squares"]) == (63 * 64 / 2, 63 * 64 * 127 / 6)
    assert found["bucket_counts"] == [1] * BINS
    assert found["bucket_limits"][-1] == 63.0
    alike = histogram([torch.full((5,), 2.0)])
    assert alike is not None
    assert (sum(alike["bucket_counts"]), alike["bucket_counts"][0]) == (5, 5)
    assert histogram([torch.tensor([1.0, float("nan")])]) is None
    assert histogram([]) is None


def test_a_stage_is_looked_at_every_few_steps_and_not_in_evaluation() -> None:
    """A linear layer with weight 2: outputs are twice the inputs, the weight's gradient is the sum of the inputs."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.constant_(module[0].weight, 2.0)
    stage, records = Stage(module, torch.optim.SGD(module.parameters(), 0.0)), []
    Histograms(stage, 3, 2, records.append)
    for step in range(1, 5):
        stage.forward(torch.tensor([[1.0], [float(step)]]), None, step)
        stage.backward(torch.ones(2, 1), None, step)
        stage.evaluate(torch.tensor([[100.0], [200.0]]))
        stage.update()
    assert [(record["kind"], record["stage"], record["step"]) for record in records] == [
        ("histograms", 3, 2), ("histograms", 3, 4),
    ]  # fmt: skip
    for record in records:
        assert record["activations"]["0"]["max"] == 2.0 * record["step"]
        assert record["gradients"]["0"]["sum"] == 1.0 + record["step"]


@pytest.mark.parametrize("depth", ["backprop", "delayed"])
def test_a_run_writes_histograms_of_every_layer_and_its_settings(depth: str, tmp_path: Path) -> None:
    method = {"method": depth} if depth == "backprop" else {"method": depth, "lag": 1}
    launch(tiny(depth=method, stages=2, steps=9, model={"layers": 2}, tracking={"histograms": 4}), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {HISTOGRAMS: 0})  # all of them, not the newest
    events.Reload()
    layers = ["embedding", "lstm1", "lstm2", "softmax"]
    wanted = {f"{what}/{layer}" for what in ("activations", "gradients") for layer in layers}
    assert {*events.Tags()["histograms"]} == wanted
    for tag in wanted:
        assert [event.step for event in events.Histograms(tag)] == [4, 8]
    (outputs,) = {event.histogram_value.num for event in events.Histograms("activations/lstm1")}
    assert outputs == 4 * 6 * 8  # a batch of 4, windows of 6, 8 units
    (text,) = events.Tensors("settings/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert lines == [f"    {line}" for line in (tmp_path / "config.yaml").read_text().splitlines()]
    assert "histograms" not in (tmp_path / "metrics.jsonl").read_text()
