"""TensorBoard events: names that do not depend on the number of stages, resumed curves, final figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from dni.losses import summed_cross_entropy
from dni.stages.base import Stage
from tests.support.records import plain, probe, train, valid
from tests.support.runs import tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.convert import fingerprint, to_plain
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.tracking.monitor import Monitor
from workers.tracking.tensorboard import keep_settings

#: Reproducible bit for bit, with a rate that changes at every step and clipping at every step.
LOCKED: dict[str, Any] = {
    "depth": {"method": "backprop"}, "log_every": 1, "checkpoint": {"every": 5, "keep": 9},
    "optimizer": {"schedule": {"kind": "cosine", "decay_steps": 15}, "learning_rate": 1e-2, "clip": 1e-3},
}  # fmt: skip


def locked(**changes: Any) -> Config:
    return tiny(**(LOCKED | changes))


def read(run_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return events


def curve(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def recorded(run_dir: Path, kind: str, stage: int, name: str) -> list[tuple[int, float]]:
    """Return a curve of `metrics.jsonl`, rounded to TensorBoard's 32 bits."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    chosen = [r for r in records if (r["kind"], r["stage"]) == (kind, stage) and r.get(name) is not None]
    return [(r["step"], torch.tensor(r[name]).item()) for r in chosen]


def settings_of(events: EventAccumulator) -> dict[str, Any]:
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in found.items()}


def test_model_figures_come_from_the_last_stage(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(train(1, 10, loss=2.0, bits_per_label=2.885, learning_rate=0.5, gradient_norm=3.0))
        monitor(train(0, 10, loss=7.0))  # depth=local has a local loss
        monitor(train(1, 20, loss=1.0))
        monitor(valid(20, 1.5) | {"accuracy": 0.25})
        monitor({"kind": "own", "stage": 0, "step": 20, "wall_s": 1.0, "loss": 0.75})
        monitor(probe(1, 20))
    events = read(tmp_path)
    found = {tag: curve(events, tag) for tag in events.Tags()["scalars"]}
    assert found["loss/train"] == [(10, 2.0), (20, 1.0)]
    assert found["loss/validation"] == [(20, 1.5)]
    assert found["accuracy/validation"] == [(20, 0.25)]
    assert found["rate/learning_rate"] == [(10, 0.5)]
    assert found["rate/steps_per_s"] == [(10, 10.0), (20, 10.0)]
    assert found["stage_1/gradient_norm"] == [(10, 3.0)]
    assert found["stage_0/staleness"] == [(10, 2.5)]
    assert found["stage_0/loss"] == [(10, 7.0)]
    assert found["stage_0/own_loss"] == [(20, 0.75)]
    assert found["stage_1/probe_time_cosine"] == [(20, 0.25)]
    assert "stage_1/time_cosine" not in found  # None in every record


def test_runs_of_one_and_three_stages_share_curve_names(tmp_path: Path) -> None:
    shared = []
    for stages in (1, 3):
        launch(locked(stages=stages, steps=4), tmp_path / str(stages))
        tags = read(tmp_path / str(stages)).Tags()["scalars"]
        shared.append({tag for tag in tags if not tag.startswith("stage_")})
        assert {tag.split("/")[0] for tag in tags if tag.startswith("stage_")} == {f"stage_{k}" for k in range(stages)}
    assert shared[0] == shared[1]
    assert {"loss/train", "loss/validation", "rate/learning_rate", "final/validation_loss"} <= shared[0]


def test_records_have_the_rate_of_their_step_and_the_norm_before_clipping(tmp_path: Path) -> None:
    config, data = resolve(locked(stages=1, steps=3))
    launch(config, tmp_path)
    course = [1e-2 * (1 + math.cos(math.pi * n / 15)) / 2 for n in range(3)]
    assert recorded(tmp_path, "train", 0, "learning_rate") == [
        (n + 1, pytest.approx(rate, rel=1e-6)) for n, rate in enumerate(course)
    ]
    (chain,), window = build_chains(config), data.train.next()
    output, _ = chain(window.inputs)
    (summed_cross_entropy(output, window.labels) / window.labels.numel()).backward()
    norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in chain.parameters() if p.grad is not None))
    assert norm > 0.01  # ten times the clipping limit
    assert recorded(tmp_path, "train", 0, "gradient_norm")[0] == (1, pytest.approx(norm, rel=1e-5))


def test_a_stage_saves_the_norm_of_its_last_optimizer_step() -> None:
    def stage() -> Stage:
        module = torch.nn.Linear(2, 1, bias=False)
        return Stage(module, torch.optim.SGD(module.parameters(), 1e-3), clip=1.0, accumulate=2)

    one, two = stage(), stage()
    norms = []
    for x in ([[3.0, 4.0]], [[3.0, 4.0]], [[6.0, 8.0]]):
        one.forward(torch.tensor(x))
        one.backward(torch.ones(1, 1))
        one.update(2)
        norms.append(one.gradient_norm)
    assert norms == [None, pytest.approx(2.5), pytest.approx(2.5)]  # (5 + 5) / (2 + 2)
    two.load_state_dict(one.state_dict())
    assert two.gradient_norm == one.gradient_norm


@pytest.mark.parametrize("folder", ["run", "other"])
def test_a_resumed_run_continues_its_curve(folder: str, tmp_path: Path) -> None:
    config = locked(steps=12)
    launch(config, tmp_path / "run")
    on = replace(config, steps=15, resume=str(tmp_path / "run"), resume_step=10)
    launch(on, tmp_path / folder)
    events = read(tmp_path / folder)
    losses, norms = curve(events, "loss/train"), curve(events, "stage_0/gradient_norm")
    assert [step for step, _ in losses] == [step for step, _ in norms] == list(range(1, 16))
    assert losses == recorded(tmp_path / folder, "train", 1, "loss")
    assert norms == recorded(tmp_path / folder, "train", 0, "gradient_norm")
    assert curve(events, "loss/validation") == recorded(tmp_path / folder, "valid", 1, "loss")
    launch(locked(steps=15), tmp_path / "whole")
    assert losses == curve(read(tmp_path / "whole"), "loss/train")
    assert [step for step, _ in curve(events, "final/validation_loss")] == [15]
    assert settings_of(events)["steps"] == 15


def test_settings_are_stored_with_the_figures_of_the_summary(tmp_path: Path) -> None:
    summary = launch(locked(steps=4, model={"units": 8, "split_points": ["lstm2"]}), tmp_path).summary
    events = read(tmp_path)
    settings = settings_of(events)
    assert (settings["depth._target_"], settings["optimizer.clip"]) == ("dni.methods.backprop.Backprop", 1e-3)
    assert settings["model.split_points"] == "['lstm2']"
    assert "resume" not in settings  # null
    for tag, (section, key) in {
        "final/train_loss": ("train", "loss"),
        "final/validation_accuracy": ("valid", "accuracy"),
        "final/best_step": ("best", "step"),
    }.items():
        assert curve(events, tag) == [(4, pytest.approx(summary[section][key]))]
    assert curve(events, "final/tokens_per_s") == [(4, pytest.approx(summary["tokens_per_s"]))]


def test_tensorboard_false_changes_nothing_else(tmp_path: Path) -> None:
    config = locked(steps=4)
    off = launch(replace(config, tensorboard=False), tmp_path / "off").summary
    on = launch(config, tmp_path / "on").summary
    assert not (tmp_path / "off" / "tensorboard").exists()
    assert (tmp_path / "on" / "tensorboard").is_dir()
    assert off["valid"] == on["valid"]
    assert fingerprint(replace(config, tensorboard=False)) == fingerprint(config)


def test_settings_that_cannot_be_written_do_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    keep_settings(tmp_path, to_plain(Config()), {"steps": 1})
    assert "TensorBoard has no settings of" in caplog.text


def test_a_run_that_went_on_in_fewer_stages_has_one_curve(tmp_path: Path) -> None:
    """Its earlier records are those of another last stage; in a new folder all of them are written again."""
    plainly = {"optimizer": LOCKED["optimizer"] | {"clip": None}}
    launch(locked(**plainly, steps=5, stages=3), tmp_path / "three")
    launch(locked(**plainly, steps=8, stages=2, resume=str(tmp_path / "three")), tmp_path / "two")
    launch(locked(**plainly, steps=8, stages=2), tmp_path / "whole")
    two, whole = read(tmp_path / "two"), read(tmp_path / "whole")
    for tag in ("loss/train", "rate/learning_rate"):
        assert curve(two, tag) == curve(whole, tag)
    assert "stage_2/loss" not in two.Tags()["scalars"]
    assert [step for step, _ in curve(two, "stage_2/busy")] == [1, 2, 3, 4, 5]
