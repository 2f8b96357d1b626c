"""Whole runs as a user starts them, and what becomes of them when something is killed, stopped or wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.commands import SMALL, Command, alive, children, run, settings, wait_for
from tests.runs import assert_same, parameters_of
from workers import checkpoint
from workers.__main__ import exit_codes, with_resumed_overrides
from workers.launcher import launch

LOCAL = ("transport=local", "launch=threads")
#: Every step takes at least 40 ms, so that a run can be met in its middle.
SLOW = (*SMALL, "depth=backprop", "transport.delay_ms=20", "launch=processes")

SUMMARY_KEYS = {
    "method", "experiment", "seed", "stages", "transport", "steps", "wall_s", "tokens_per_s", "train", "valid",
    "stage", "restarts", "versions",
}  # fmt: skip
STAGE_KEYS = {"index", "busy", "steps_per_s", "staleness_mean", "predictor_cosine", "peak_rss_mb"}


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def trained_steps(run_dir: Path, stage: int) -> list[int]:
    """The steps of a stage's training records, in the order of the file."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [r["step"] for r in records if r["kind"] == "train" and r["stage"] == stage]


def test_the_smoke_experiment_leaves_a_whole_run_behind(tmp_path: Path) -> None:
    with Command(tmp_path, ("experiment=smoke",)) as command:
        done = command.finish(within=30)
        folder = command.run_dir()
    assert (done.code, done.err) == (0, [])
    assert str(folder) in done.out[-1]
    assert {"config.yaml", "hydra.yaml", "overrides.yaml"} <= {p.name for p in (folder / ".hydra").iterdir()}
    assert list((folder / "tensorboard").glob("events.*"))
    names = {p.name for p in (folder / "checkpoints" / "step-00000060").iterdir()}
    assert names == {f"stage-{k}.{kind}" for k in (0, 1) for kind in ("json", "safetensors")}
    assert [trained_steps(folder, k) for k in (0, 1)] == [[10, 20, 30, 40, 50, 60]] * 2
    summary = summary_of(folder)
    assert summary.keys() >= SUMMARY_KEYS
    assert [stage.keys() >= STAGE_KEYS for stage in summary["stage"]] == [True, True]
    assert summary["method"] == {"depth": "synthetic", "time": "truncated"}
    assert (summary["steps"], summary["transport"], summary["interrupted"]) == (60, "grpc", False)
    assert 0 < summary["valid"]["bits_per_char"] < 6.6  # what 96 equally likely characters would cost


@pytest.mark.timeout(90)
def test_a_killed_stage_ends_the_run_with_the_command_that_goes_on(tmp_path: Path) -> None:
    with Command(tmp_path, (*SLOW, "steps=50", "checkpoint.every=10")) as command:
        command.until_saved()
        stages = command.stages()
        os.kill(stages[1], signal.SIGKILL)
        done = command.finish()
        folder = command.run_dir()
    assert done.code == 1
    (line,) = done.err
    last = checkpoint.complete_steps(folder)[-1]
    assert re.match(r"dni-train: WorkerLost: stage 1, after step \d+: its process was killed by SIGKILL; ", line)
    assert f"last complete checkpoint: {folder}/checkpoints/step-{last:08d}; " in line
    assert not any(alive(pid) for pid in stages.values())
    assert not (folder / "summary.json").exists()

    say = shlex.split(line.split("go on with: dni-train ")[1])
    again = tmp_path / "again"
    again.mkdir()
    with Command(again, tuple(say)) as command:
        assert (command.finish().code, last < 50) == (0, True)
        resumed = command.run_dir()
    assert summary_of(resumed)["steps"] == 50
    assert [trained_steps(resumed, k) for k in (0, 1)] == [list(range(5, 51, 5))] * 2


def test_no_stage_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    with Command(tmp_path, (*SLOW, "steps=100000")) as command:
        command.until_trained(5)
        stages = command.stages()
        assert stages.keys() == {0, 1}
        command.process.send_signal(signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in stages.values()), "the end of all stages", within=5)


def test_a_frozen_stage_ends_the_run_with_its_name(tmp_path: Path) -> None:
    with Command(tmp_path, (*SLOW, "steps=100000")) as command:
        command.until_trained(5)
        stages = command.stages()
        os.kill(stages[1], signal.SIGSTOP)
        done = command.finish(within=15)
    assert done.code == 1
    (line,) = done.err
    assert re.match(r"dni-train: WorkerLost: stage 0, after step \d+: .*from stage 1.* is gone", line), line
    assert not any(alive(pid) for pid in stages.values())


def resumed(folder: Path, target: Path, *more: str) -> Path:
    """What `dni-train resume=FOLDER MORE` does, with its run folder named."""
    launch(settings(*with_resumed_overrides([f"resume={folder}", *more])), target)
    return target


def test_ctrl_c_stops_in_good_order_and_the_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """An interruption saves, and to save means to wait for all targets that are under way.

    With a lag these are kept until their step, so that where a run was stopped does not show in its result.
    """
    method = (*SMALL, "depth.lag=2", "transport.delay_ms=5", "steps=100000")
    with Command(tmp_path, (*method, "launch=processes")) as command:
        command.until_trained(10)
        command.process.send_signal(signal.SIGINT)
        done = command.finish()
        folder = command.run_dir()
    summary = summary_of(folder)
    m = summary["steps"]
    assert done.code == 130
    assert done.err == [f"dni-train: stopped after step {m}; go on with: dni-train resume={folder}"]
    assert (summary["interrupted"], checkpoint.complete_steps(folder)) == (True, [m])

    again = (f"steps={m + 15}", *LOCAL)
    part = resumed(folder, tmp_path / "part", *again)
    launch(settings(*method, *again), tmp_path / "whole")
    assert_same(parameters_of(part, 2), parameters_of(tmp_path / "whole", 2))
    for k in (0, 1):
        assert trained_steps(part, k) == list(range(5, m + 16, 5))
    assert summary_of(part)["interrupted"] is False


@pytest.mark.parametrize("lag", [0, 2])
def test_saving_does_not_show_in_the_result(lag: int, tmp_path: Path) -> None:
    for every in ("3", "null"):
        launch(settings(*SMALL, *LOCAL, f"depth.lag={lag}", "steps=10", f"checkpoint.every={every}"), tmp_path / every)
    assert_same(parameters_of(tmp_path / "3", 2), parameters_of(tmp_path / "null", 2))


def test_a_run_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    start = (*SMALL, *LOCAL, "checkpoint.every=10")
    launch(settings(*start, "steps=10"), tmp_path)
    launch(settings(*start, "steps=20", f"resume={tmp_path}"), tmp_path)
    assert trained_steps(tmp_path, 0) == [5, 10, 15, 20]


def test_a_file_of_the_users_own_in_threads(tmp_path: Path) -> None:
    (tmp_path / "my text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    with Command(tmp_path, (*SMALL, *LOCAL, "data.path='my text.txt'", "steps=20")) as command:
        command.until(lambda: bool(list(tmp_path.glob("outputs/*/*/metrics.jsonl"))), "its start")
        assert not children(command.process.pid)
        done = command.finish()
        summary = summary_of(command.run_dir())
    assert (done.code, done.err) == (0, [])
    assert (summary["data"]["name"], summary["launch"], summary["transport"]) == ("my text.txt", "threads", "local")


def test_a_folder_of_the_users_own(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    (texts / "more").mkdir(parents=True)
    (texts / "a.txt").write_text("abc\n" * 200)
    (texts / "more" / "b.txt").write_text("abcd\n" * 200)
    summary = launch(settings(*SMALL, *LOCAL, f"data.path={texts}", "steps=5"), tmp_path / "run").summary
    assert (summary["steps"], summary["data"]["name"]) == (5, "texts")


def test_a_text_that_is_too_short_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("abc" * 30)
    done = run(tmp_path, *SMALL, "data.path=short.txt", "launch=processes")
    assert done.code == 2
    (line,) = done.err
    assert line.startswith("dni-train: this part of the text is too short: 4 lanes of 18 characters and one label need")
    assert not list(tmp_path.glob("outputs/*/*/config.yaml"))
    assert not list(tmp_path.glob("outputs/*/*/logs"))


@pytest.mark.parametrize("how", [("launch=processes",), LOCAL], ids=["processes", "threads"])
def test_divergence_is_one_line_that_names_the_stage(
    how: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = ("optimizer=sgd", "optimizer.learning_rate=1e20", "optimizer.clip=null")
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*SMALL, *huge, *how, "steps=1000"), tmp_path)
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"dni-train: DivergedError: stage [01][,:] .*lower .*learning rate", line), line
