"""dni-grow: checkpoints of real runs with more layers, the same outputs, and training that goes on from there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dni.data.window import split_labels
from tests.support.pictures import digits
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.growth.command import main
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.storage.record import read_record, to_resume
from workers.tracking.run import METRICS, read_metrics

OWN = "tests.workers.growth.own_layers"
ADAM = {"learning_rate": 1e-2}
BOTH: dict[str, Any] = {"depth": {"method": "synthetic", "lag": 1}, "time": {"method": "synthetic"}, "optimizer": ADAM}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "time": {"method": "truncated"}, "optimizer": ADAM}

#: Settings by name; the layers that new ones follow; the new layers.
MODELS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "transformer": (
        {"kind": "transformer", "units": 8, "layers": 3, "heads": 2, "memory": 4, "dropout": 0.1},
        "transformer2", ["transformer3"],
    ),
    "two": (
        {"kind": "transformer", "units": 8, "layers": 3, "heads": 2, "memory": 4},
        "embedding,transformer3", ["transformer1", "transformer5"],
    ),
    "residual": ({"kind": "residual", "units": 8, "layers": 3}, "residual1", ["residual2"]),
    "plain": (
        {"kind": "residual", "units": 8, "layers": 3, "cell": "minlstm", "mixing": "plain"}, "residual3", ["residual4"],
    ),
    "mlp": ({"kind": "mlp", "units": 8, "layers": 3, "dropout": 0.1}, "dropout2", ["layer3", "relu3", "dropout3"]),
}  # fmt: skip


def run_of(folder: Path, **settings: Any) -> Path:
    launch(tiny(**{"stages": 3, "steps": 8, **settings}), folder)
    return folder


def grown(capsys: pytest.CaptureFixture[str], run: Path, folder: Path, after: str, *words: str) -> list[str]:
    """Run the command; return its lines."""
    code = main([str(run), str(folder), "--after", after, *words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out.splitlines()


@torch.no_grad()
def outputs(run: Path) -> list[tuple[Tensor, Tensor]]:
    """Of the whole model on three validation windows, with carried state, from the files alone; and the labels."""
    config, data = resolve(read_record(run))
    step = checkpoint.complete_steps(run)[-1]
    chains, source, found = build_chains(config), data.valid(), []
    states = [chain.initial_state(config.data.batch) for chain in chains]
    for part, chain in enumerate(chains):
        chain.load_state_dict(checkpoint.load(run, step, part)["stage"]["module"])
        chain.eval()
    for _ in range(3):
        window = source.next()
        value = window.inputs
        for part, chain in enumerate(chains):
            value, states[part] = chain(value, states[part])
        found.append((value, split_labels(window.inputs, window.labels)[0]))
    return found


def difference(before: Path, now: Path) -> float:
    return max((a - b).abs().max().item() for (a, _), (b, _) in zip(outputs(before), outputs(now), strict=True))


def valid_loss(run: Path) -> float:
    return sum(cross_entropy(value.flatten(0, -2), labels.flatten()).item() for value, labels in outputs(run)) / 3


def moments(run: Path) -> dict[str, Tensor]:
    """What Adam keeps, by the names of parameters."""
    step, found = checkpoint.complete_steps(run)[-1], {}
    for part, chain in enumerate(build_chains(read_record(run))):
        state = checkpoint.load(run, step, part)["stage"]["optimizer"]["state"]
        names = [name for name, _ in chain.named_parameters()]
        found |= {f"{names[index]} {key}": value for index, each in state.items() for key, value in each.items()}
    return found


def train_losses(run: Path) -> dict[int, float]:
    records = [record for record in read_metrics(run / METRICS) if record["kind"] == "train"]
    return {record["step"]: record["loss"] for record in records if record["loss"] is not None}


def resumed(run: Path, folder: Path, **changes: Any) -> Path:
    """Train a run further, as `dni-train resume=RUN` does."""
    launch(replace(to_resume(read_record(run)), resume=str(run), **changes), folder)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_the_outputs_stay(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And all else that the old layers have: Adam's moments, the state they carry, predictors behind the same cut."""
    model, after, new = MODELS[name]
    run, larger = run_of(tmp_path / "run", model=model, **(LOCKED if name == "mlp" else BOTH)), tmp_path / "larger"
    said = grown(capsys, run, larger, after)
    assert " ".join(said).count("(new)") == len(new)
    assert all(f"{each} (new)" in " ".join(said) for each in new)
    assert difference(run, larger) < 1e-6
    assert read_record(larger).model.layers == 3 + after.count(",") + 1  # type: ignore[attr-defined]
    layers = [layer for part in parts(run) for layer in part["stage"]["layers"]]
    now = [layer for part in parts(larger) for layer in part["stage"]["layers"]]
    assert len(now) == len(layers) + len(new)
    names = dict(zip(layers, (layer for layer in now if layer not in new), strict=True))
    kept = {f"{names[key.split('.')[0]]}.{key.partition('.')[2]}": value for key, value in moments(run).items()}
    assert_same(moments(larger), kept)
    assert [part["depth"] == {} for part in parts(larger)] == [part["depth"] == {} for part in parts(run)]


def parts(run: Path) -> list[dict[str, Any]]:
    step = checkpoint.complete_steps(run)[-1]
    return [checkpoint.load(run, step, part) for part in range(checkpoint.stages_of(run, step))]


@pytest.mark.parametrize("depth", ["backprop", "delayed"])
def test_the_next_losses_are_those_of_the_run_before(
    depth: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the rate at 0 weights stay, so that every loss is that of the old model on the same data and state.

    A stage with `depth=delayed` keeps windows at the checkpoint: it goes back through them.
    """
    method = {"method": depth} if depth == "backprop" else {"method": depth, "lag": 1}
    model = {"kind": "residual", "units": 8, "layers": 3, "cell": "mingru"}
    settings: dict[str, Any] = {"model": model, "depth": method, "time": {"method": "truncated"}, "log_every": 1}
    run = run_of(tmp_path / "run", **settings, optimizer={"kind": "sgd", "learning_rate": 1e-12}, steps=4)
    grown(capsys, run, tmp_path / "larger", "residual1")
    small = train_losses(resumed(run, tmp_path / "small", steps=10))
    large = train_losses(resumed(tmp_path / "larger", tmp_path / "large", steps=10))
    assert [*large] == [5, 6, 7, 8, 9, 10]
    assert max(abs(large[step] - small[step]) for step in large) < 1e-6


def test_three_stages_become_four_and_learn_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The new layer is a stage of its own."""
    model = MODELS["transformer"][0]
    run, larger = run_of(tmp_path / "run", model=model, **BOTH), tmp_path / "larger"
    grown(capsys, run, larger, "transformer3")
    cuts = ["transformer2", "transformer4", "norm"]
    settings = replace(read_record(larger).model, split_points=cuts)
    on = resumed(larger, tmp_path / "on", steps=24, stages=4, model=settings)
    assert [part["stage"]["layers"] for part in parts(on)][2] == ["transformer4"]
    assert valid_loss(on) < 0.9 * valid_loss(larger)
    before, after = parameters_of(larger, 3), parameters_of(on, 4)
    new = [key for key in before if key.startswith("transformer4.") and "distance" not in key]
    assert not any(torch.equal(before[key], after[key]) for key in new)


def test_a_residual_net_gets_a_block_of_every_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"kind": "mnist", "path": str(digits(tmp_path / "digits")), "batch": 8, "window": 1, "sequence": None}
    run = run_of(tmp_path / "run", model={"kind": "resnet", "units": 2, "layers": 1}, data=data, **LOCKED, steps=4)
    said = grown(capsys, run, tmp_path / "larger", "block1,block2,block3")
    assert re.findall(r"(\w+) \(new\)", " ".join(said)) == ["block2", "block4", "block6"]
    assert difference(run, tmp_path / "larger") < 1e-6
    on = resumed(tmp_path / "larger", tmp_path / "on", steps=8)
    assert "block6.first.0.weight" in parameters_of(on, 3)


def test_a_model_of_ones_own_grows_by_its_own_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of layers without names: those behind the new one move by one."""
    run = run_of(tmp_path / "run", model={"_target_": f"{OWN}.blocks"}, **LOCKED)
    grown(capsys, run, tmp_path / "larger", "2", "model.count=4")
    assert difference(run, tmp_path / "larger") < 1e-6
    old, new = parameters_of(run, 3), parameters_of(tmp_path / "larger", 3)
    assert torch.equal(new["4.map.weight"], old["3.map.weight"])
    assert not new["3.map.weight"].any()
    assert valid_loss(resumed(tmp_path / "larger", tmp_path / "on", steps=24)) < valid_loss(run)
