"""Pipelines whose stages exchange named tensors equal plain backpropagation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import WorkerLost, WrongTensor
from tests.support.ranks import Ranks, piped, succeeded
from tests.support.runs import assert_close, assert_same, parameters_of, plain_training, tiny
from workers.cli.evaluate import evaluate
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

MODELS: dict[str, dict[str, Any]] = {
    "skips": {"_target_": "tests.plugin.models.skips.Skips"},
    "side_values": {"_target_": "tests.plugin.models.side_values.SideValues"},
    "traced": {"_target_": "tests.plugin.models.own_module.network"},
}
OTHERS: dict[str, dict[str, Any]] = {
    "sized": {"_target_": "tests.plugin.models.side_values.pairs"},
    "unlike": {"_target_": "tests.plugin.models.side_values.UnlikeValues"},
}
SCHEDULES = {"gpipe": 4, "1f1b": 4, "interleaved_1f1b": 2, "zero_bubble": 2}
SGD = {"kind": "sgd", "learning_rate": 0.3, "momentum": 0.9, "clip": 0.5}


def own(method: str, model: str, **changes: Any) -> Config:
    """Return the settings of a run in four parts."""
    settings: dict[str, Any] = {"stages": SCHEDULES[method], "optimizer": SGD, "depth": {"microbatches": 4}}
    return piped(method, model=(MODELS | OTHERS)[model], **{**settings, **changes})


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", SCHEDULES)
def test_they_equal_plain_backpropagation(method: str, model: str, ranks: Ranks, tmp_path: Path) -> None:
    """Gradients of a skip over two cuts are summed, tensors that are not used have none."""
    config = own(method, model)
    assert config.parts == 4
    succeeded(ranks.run(config, tmp_path))
    assert_close(parameters_of(tmp_path, 4), plain_training(config), within=1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", SCHEDULES)
def test_windows_may_differ_in_rows_and_steps(method: str, ranks: Ranks, tmp_path: Path) -> None:
    """With few rows there are fewer microbatches: 3 of 2 rows, 3 of 1 row, 1 of 1 row."""
    data = {"_target_": "tests.plugin.models.ragged.Ragged", "sequence": None}
    config = own(method, "skips", data=data, steps=14)
    records = succeeded(ranks.run(config, tmp_path))
    assert_close(parameters_of(tmp_path, 4), plain_training(config), within=1e-12)
    assert [r["step"] for r in records[-1] if r["kind"] == "valid"] == [4, 8, 12, 14]


def test_in_single_precision_too(ranks: Ranks, tmp_path: Path) -> None:
    config = own("1f1b", "skips", optimizer={"kind": "adam"})
    succeeded(ranks.run(config, tmp_path))
    assert_close(parameters_of(tmp_path, 4), plain_training(config), within=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_validation_measures_what_locked_training_does(model: str, ranks: Ranks, tmp_path: Path) -> None:
    records = succeeded(ranks.run(own("zero_bubble", model), tmp_path / "pipe"))
    found = {r["step"]: r["loss"] for r in records[-1] if r["kind"] == "valid"}
    plain = tiny(model=MODELS[model], stages=4, depth={"method": "backprop"}, optimizer=SGD, data={"batch": 8})
    assert found[10] == pytest.approx(launch(plain, tmp_path / "plain").summary["valid"]["loss"], abs=1e-5)


@pytest.mark.parametrize("method", ["1f1b", "zero_bubble"])
def test_a_model_traced_for_microbatches_is_evaluated_in_whole_batches(
    method: str, ranks: Ranks, tmp_path: Path
) -> None:
    config = own(method, "sized", evaluate={"every": None, "windows": None})
    records = succeeded(ranks.run(config, tmp_path))
    assert_close(parameters_of(tmp_path, 4), plain_training(own("gpipe", "sized", depth={"microbatches": 1})), 1e-5)
    (measured,) = (r["loss"] for r in records[-1] if r["kind"] == "valid")
    assert evaluate(tmp_path, "valid")["bits_per_label"] == pytest.approx(measured / math.log(2), rel=1e-5)


@pytest.mark.parametrize("method", ["gpipe", "zero_bubble"])
def test_in_16_bits_the_loss_is_nearly_that_in_32_bits(method: str, ranks: Ranks, tmp_path: Path) -> None:
    losses = {}
    for precision in ("bf16", "fp32"):
        records = succeeded(ranks.run(own(method, "skips", precision=precision, steps=40), tmp_path / precision))
        losses[precision] = [r["loss"] for r in records[-1] if r["kind"] == "valid"][-1]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.005)


@pytest.mark.parametrize("method", ["1f1b", "zero_bubble"])
def test_a_resumed_run_equals_an_uninterrupted_one(method: str, ranks: Ranks, tmp_path: Path) -> None:
    saved = {"checkpoint": {"every": 4, "keep": 9}}
    succeeded(ranks.run(own(method, "side_values", **saved), tmp_path / "whole"))
    again = own(method, "side_values", **saved, resume=str(tmp_path / "whole"), resume_step=4)
    succeeded(ranks.run(again, tmp_path / "again"))
    assert_same(parameters_of(tmp_path / "again", 4), parameters_of(tmp_path / "whole", 4))
    for part in range(4):
        a, b = (checkpoint.load(tmp_path / run, 10, part)["stage"]["state"] or [] for run in ("again", "whole"))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_stage_that_sends_other_tensors_than_in_evaluation_is_named_in_one_line(ranks: Ranks, tmp_path: Path) -> None:
    outcomes = ranks.run(own("1f1b", "unlike"), tmp_path)
    assert isinstance(outcomes[1], WrongTensor)
    assert str(outcomes[1]) == (
        "the output of part 1 has the tensors hidden, noise, and in evaluation it has hidden, seen, skip, "
        "symbols, unused"
    )
    assert isinstance(outcomes[0], WorkerLost)
