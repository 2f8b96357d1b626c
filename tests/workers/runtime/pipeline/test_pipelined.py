"""depth=gpipe, 1f1b, interleaved_1f1b and zero_bubble equal plain backpropagation, one process per stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.losses import summed_cross_entropy
from tests.support.pictures import digits
from tests.support.ranks import Ranks, piped, succeeded
from tests.support.runs import assert_close, assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

pytestmark = pytest.mark.timeout(120)  # the first test includes four imports of torch


SGD = {"kind": "sgd", "learning_rate": 0.5, "momentum": 0.9, "clip": 0.05}
ADAM = {"kind": "adam", "schedule": {"kind": "cosine", "warmup_steps": 3, "decay_steps": 9}}


@pytest.mark.parametrize(
    ("method", "stages", "microbatches", "chunks", "optimizer"),
    [
        pytest.param("gpipe", 2, 4, 2, SGD, marks=pytest.mark.long),
        pytest.param("1f1b", 4, 8, 2, SGD, marks=pytest.mark.long),
        pytest.param("interleaved_1f1b", 4, 4, 2, SGD, marks=pytest.mark.long),
        ("zero_bubble", 2, 4, 2, SGD),
        pytest.param("zero_bubble", 4, 4, 1, SGD, marks=pytest.mark.long),
        ("gpipe", 4, 2, 2, ADAM),
        pytest.param("1f1b", 2, None, 2, ADAM, marks=pytest.mark.long),
        ("interleaved_1f1b", 2, 8, 3, ADAM),
        pytest.param("zero_bubble", 4, 8, 2, ADAM, marks=pytest.mark.long),
    ],
)
def test_it_equals_plain_backpropagation(
    method: str, stages: int, microbatches: int | None, chunks: int, optimizer: dict[str, Any], ranks: Ranks,
    tmp_path: Path,
) -> None:  # fmt: skip
    """With carried state, resets, clipping of every part and, in Adam's runs, a learning-rate schedule."""
    several = {"virtual_stages": chunks} if method in ("interleaved_1f1b", "zero_bubble") else {}
    depth = {"microbatches": microbatches, **several}
    config = piped(method, stages=stages, depth=depth, optimizer=optimizer, evaluate={"every": 8})
    records = succeeded(ranks.run(config, tmp_path / "pipe"))
    locked = {"stages": config.parts, "depth": {"method": "backprop"}, "model": {"units": 8, "layers": 7}}
    plain = tiny(**locked, data={"batch": 8}, optimizer=optimizer, evaluate={"every": 8})
    launch(plain, tmp_path / "plain")
    assert_close(parameters_of(tmp_path / "pipe", config.parts), parameters_of(tmp_path / "plain", config.parts))
    recorded = {(r["kind"], r["step"]): r["loss"] for r in records[-1] if r.get("loss") is not None}
    lines = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    expected = {(r["kind"], r["step"]): r["loss"] for r in lines if r.get("loss") is not None}
    assert recorded == pytest.approx(expected, abs=1e-5)
    assert {("train", 5), ("train", 10), ("valid", 8), ("valid", 10)} == recorded.keys()


@pytest.mark.long
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", ["gpipe", "zero_bubble"])
def test_a_curriculum_of_whole_sequences_grows_as_with_backprop(method: str, ranks: Ranks, tmp_path: Path) -> None:
    changes = {
        "steps": 140, "time": {"method": "full"}, "data": {"kind": "copy", "batch": 8, "sequence": None},
        "model": {"units": 16, "layers": 3}, "optimizer": {"kind": "adam", "learning_rate": 0.03},
        "evaluate": {"every": None}, "log_every": 20,
    }  # fmt: skip
    records = succeeded(ranks.run(piped(method, stages=2, **changes), tmp_path / "pipe"))
    stages = piped(method).parts
    launch(tiny(depth={"method": "backprop"}, **{**changes, "stages": stages}), tmp_path / "plain")
    lines = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    solved = [r["solved_length"] for r in lines if r["kind"] == "train" and r["stage"] == 0]
    assert solved[-1] > 5
    for of_stage in records:
        assert [r["solved_length"] for r in of_stage if r["kind"] == "train"] == solved
    assert_close(parameters_of(tmp_path / "pipe", stages), parameters_of(tmp_path / "plain", stages))


@pytest.mark.long
@pytest.mark.parametrize("method", ["gpipe", "interleaved_1f1b"])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(method: str, ranks: Ranks, tmp_path: Path) -> None:
    """The first stage is asked to stop after step 4; it announces step 5 as the last to all stages."""
    changes = {"model": {"dropout": 0.3}, "stages": 2, "log_every": 1, "evaluate": {"every": None}}
    whole, part, rest = (tmp_path / name for name in ("whole", "part", "rest"))
    succeeded(ranks.run(piped(method, **changes, steps=12), whole))
    stopped = succeeded(ranks.run(piped(method, **changes, steps=12), part, stop_after=4))
    assert [[r["step"] for r in each if r["kind"] == "end"] for each in stopped] == [[5], [5]]
    assert checkpoint.complete_steps(part) == [5]
    succeeded(ranks.run(piped(method, **changes, steps=12, resume=str(part)), rest))
    parts = piped(method, **changes).parts
    assert_same(parameters_of(rest, parts), parameters_of(whole, parts))
    for k in range(parts):
        a, b = (checkpoint.load(folder, 12, k) for folder in (rest, whole))
        assert all(torch.equal(x, y) for x, y in zip(a["stage"]["state"], b["stage"]["state"], strict=True))
        assert a["upstream"] == b["upstream"]


@pytest.mark.usefixtures("double")
def test_batch_norm_normalises_every_microbatch_separately(ranks: Ranks, tmp_path: Path) -> None:
    folder = digits(tmp_path / "digits")
    config = piped(
        "gpipe", stages=2, steps=3, model={"kind": "mlp_bn", "units": 4, "layers": 4},
        data={"kind": "mnist", "path": str(folder), "batch": 8, "window": 1, "sequence": None},
        optimizer={"kind": "sgd", "learning_rate": 0.1, "clip": None},
    )  # fmt: skip
    succeeded(ranks.run(config, tmp_path / "pipe"))
    expected = in_microbatches(config)
    found = parameters_of(tmp_path / "pipe", 2)
    assert {name for name in found if "running_mean" in name}
    assert_close(found, expected)


def in_microbatches(config: Config) -> dict[str, Tensor]:
    """Train the unsplit model with SGD on gradients summed over the M microbatches."""
    config, opened = resolve(config)
    model = nn.Sequential(*(layer for chain in build_chains(config) for layer in chain))
    names = [name for chain in build_chains(config) for name in chain.state_dict()]
    for _ in range(config.steps):
        window = opened.train.next()
        for some, labels in zip(
            window.inputs.chunk(config.microbatches), window.labels.chunk(config.microbatches), strict=True
        ):
            summed_cross_entropy(model(some), labels).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= config.optimizer.learning_rate * parameter.grad / len(window.labels)
                parameter.grad = None
    return dict(zip(names, model.state_dict().values(), strict=True))


@pytest.mark.long
def test_an_emulated_accelerator_makes_the_bubbles_of_the_schedule(ranks: Ranks, tmp_path: Path) -> None:
    """A step takes M + K - 1 passes each way, of 1 / M of the batch's time; a stage is busy in M of them."""
    config = piped(
        "gpipe", stages=2, steps=10, depth={"microbatches": 2}, evaluate={"every": None},
        emulate={"forward_ms": 20, "backward_ms": 40},
    )  # fmt: skip
    for each in succeeded(ranks.run(config, tmp_path / "pipe")):
        (end,) = [record for record in each if record["kind"] == "end"]
        assert end["train_s"] / 10 >= 0.09  # 3 / 2 of 60 ms
        assert 10 * 0.06 / end["wall_s"] <= end["busy"] <= 0.8
