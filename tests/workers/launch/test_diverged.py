"""A diverged run stops with an error and keeps its good checkpoints, in every launch mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni.errors import DivergedError
from tests.support.commands import summary_of
from tests.support.runs import tiny
from workers.cli.train import exit_codes
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.runtime.divergence import STEPS
from workers.storage import checkpoint

#: Adam's steps have the size of its rate: the first one destroys the model, but all values stay finite.
HUGE = {"optimizer": {"learning_rate": 1e9}, "evaluate": {"every": None, "windows": 1}}


def wild(**changes: Any) -> Config:
    return tiny(**{**HUGE, "steps": 10**6, "log_every": 1000, "depth": {"method": "local"}, **changes})


def ended(run_dir: Path) -> tuple[str, int]:
    summary = summary_of(run_dir)
    return summary["ended"], summary["steps"]


def test_divergence_stops_as_soon_as_the_rule_holds(tmp_path: Path) -> None:
    """Records are rare and a checkpoint is written every ten steps: divergence is still found, no good checkpoint
    lost."""
    with pytest.raises(DivergedError) as caught:
        launch(wild(checkpoint={"every": 10, "keep": 1}), tmp_path)
    assert f"the loss of the last {STEPS} steps is" in str(caught.value)
    assert "no complete checkpoint had been written before" in str(caught.value)
    kind, steps = ended(tmp_path)
    assert kind == "diverged"
    assert STEPS <= steps <= STEPS + 4  # W = 4 steps may be in flight in later stages
    assert checkpoint.complete_steps(tmp_path) == []
    aside = {path.name for path in (tmp_path / "checkpoints").glob("diverged-*")}
    assert aside >= {f"diverged-{step:08d}" for step in range(10, 101, 10)}  # none was pruned


def test_the_last_good_checkpoint_is_kept_and_named_over_a_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first 12 steps are sane; then the rate jumps, as by a schedule, and the run resumes in the same folder."""
    method = {"depth": {"method": "backprop"}, "checkpoint": {"every": 5, "keep": 1}}
    launch(tiny(steps=12, **method), tmp_path)
    first_loss = json.loads((tmp_path / "checkpoints/step-00000012/stage-1.json").read_text())["state"]["journal"]
    from_step = Poisoned(monkeypatch, at=17)
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(tiny(steps=10**6, resume=str(tmp_path), **method), tmp_path)
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    good = tmp_path / "checkpoints" / "step-00000015"  # 16 and 17 were still fine: after step 15 the model was good
    assert line.startswith("dni-train: DivergedError: stage 1, step ")
    assert f"the first step's ({first_loss['watch']['first']:.4g})" in line
    assert line.endswith(f"the last good checkpoint is {good}")
    assert checkpoint.complete_steps(tmp_path)[-1] == 15
    assert ended(tmp_path)[0] == "diverged"
    assert from_step.at == 17


class Poisoned:
    """Multiply the losses of the last stage by 10^6 from a step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        from workers.runtime.recorder import Recorder

        self.at, judge = at, Recorder._watch_loss

        def poisoned(recorder: Recorder, step: int) -> None:
            if recorder.depth.measured is not None and step > at:
                recorder.depth.measured = (1e6 * recorder.depth.measured[0], recorder.depth.measured[1])
            judge(recorder, step)

        monkeypatch.setattr(Recorder, "_watch_loss", poisoned)


def test_a_run_resumed_elsewhere_names_its_source_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(tiny(steps=5, depth={"method": "backprop"}), tmp_path / "first")
    Poisoned(monkeypatch, at=8)
    good = tmp_path / "first" / "checkpoints" / "step-00000005"
    on = tiny(steps=12, depth={"method": "backprop"}, resume=str(tmp_path / "first"))
    with pytest.raises(DivergedError, match=f"the last good checkpoint is {good}$"):
        launch(on, tmp_path / "on")


def test_one_stage_alone_may_diverge(tmp_path: Path) -> None:
    """Only the first of two stages diverges at this rate; the last stage's loss stays as it was."""
    depth = {"method": "local", "learning_rate": 1e9}
    with pytest.raises(DivergedError, match=r"^stage 0, step 100: the loss of the last 100 steps"):
        launch(wild(optimizer={"learning_rate": 1e-3}, depth=depth), tmp_path)
    assert ended(tmp_path)[0] == "diverged"


def test_a_short_run_is_checked_at_its_end(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="the loss of the last 20 steps"):
        launch(wild(steps=20), tmp_path)
    assert ended(tmp_path) == ("diverged", 20)


@pytest.mark.parametrize("method", ["backprop", "synthetic", "local"])
def test_a_non_finite_run_has_a_summary(method: str, tmp_path: Path) -> None:
    optimizer = {"kind": "sgd", "learning_rate": 1e38, "clip": None}
    with pytest.raises(DivergedError, match=r"stage \d, step \d+: .* is (nan|inf)"):
        launch(wild(optimizer=optimizer, depth={"method": method}), tmp_path)
    kind, steps = ended(tmp_path)
    assert kind == "diverged"
    assert 0 < steps < STEPS


@pytest.mark.long
@pytest.mark.parametrize("method", ["local", "1f1b"])
def test_in_processes(method: str, tmp_path: Path) -> None:
    processes = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
    with pytest.raises(DivergedError, match=f"the loss of the last {STEPS} steps is"):
        launch(wild(depth={"method": method}, **processes), tmp_path)
    assert ended(tmp_path)[0] == "diverged"


def test_a_high_rate_alone_does_not_stop_a_run(tmp_path: Path) -> None:
    summary = launch(wild(optimizer={"learning_rate": 0.1}, steps=120), tmp_path).summary
    assert (summary["ended"], summary["steps"]) == ("steps", 120)
