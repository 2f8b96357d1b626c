"""A stopped run saves its state, and a resumed run equals an uninterrupted one."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from omegaconf import OmegaConf

from dni.errors import ResumeError
from tests.support.commands import LOCAL, SMALL, Command, children, settings, summary_of, trained_steps
from tests.support.runs import assert_same, parameters_of
from workers.build.data import resolve
from workers.cli.train import exit_codes
from workers.config.convert import to_plain
from workers.launch import launcher
from workers.launch.launcher import launch
from workers.launch.threads import run_threads
from workers.runtime.job import Job
from workers.storage import checkpoint
from workers.tracking.monitor import Monitor


def resumed(folder: Path, target: Path, *more: str) -> Path:
    """Run `dni-train resume=FOLDER MORE` in the run folder `target`."""
    launch(settings(f"resume={folder}", *more), target)
    return target


def test_ctrl_c_stops_in_good_order_and_the_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    """An interrupt saves a checkpoint, which waits for all targets in flight.

    With a lag these are kept until their step, so the step of the interrupt does not change the result.
    """
    method = (*SMALL, "depth.lag=2", "transport.delay_ms=5", "steps=100000")
    with Command(tmp_path, (*method, "launch=processes")) as command:
        command.until_trained(10)
        for pid in command.stages().values():
            os.kill(pid, signal.SIGTERM)  # a cluster engine signals every process; only the supervisor acts
        command.process.send_signal(signal.SIGINT)
        done = command.finish()
        folder = command.run_dir()
    summary = summary_of(folder)
    m = summary["steps"]
    assert done.code == 130
    assert done.err == [f"dni-train: stopped after step {m}; resume with: dni-train resume={folder}"]
    assert (summary["interrupted"], checkpoint.complete_steps(folder)) == (True, [m])

    again = (f"steps={m + 15}", *LOCAL)
    part = resumed(folder, tmp_path / "part", *again)
    launch(settings(*method, *again), tmp_path / "whole")
    assert_same(parameters_of(part, 2), parameters_of(tmp_path / "whole", 2))
    for k in (0, 1):
        assert trained_steps(part, k) == list(range(5, m + 16, 5))
    assert summary_of(part)["interrupted"] is False


def strike(monkeypatch: pytest.MonkeyPatch, times: int, number: signal.Signals = signal.SIGTERM) -> tuple[str, ...]:
    """Start an endless run in one process, and signal its supervisor while it passes on a record."""
    struck: list[Mapping[str, Any]] = []

    class Struck(Monitor):
        def __call__(self, record: Mapping[str, Any]) -> None:
            super().__call__(record)
            if record["step"] >= 10 and len(struck) < times:
                struck.append(record)
                signal.raise_signal(number)

    monkeypatch.setattr(launcher, "Monitor", Struck)
    return (*SMALL, "stages=1", "launch=processes", "steps=100000", "checkpoint.every=null")


@pytest.mark.long
@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 3), (signal.SIGHUP, 2)])
def test_a_signal_in_the_middle_of_a_record_stops_in_good_order(
    number: signal.Signals, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed terminal may send its signal twice, once through its shell; an engine, once through its launcher."""
    result = launch(settings(*strike(monkeypatch, times, number)), tmp_path)
    assert (result.interrupted, result.summary["interrupted"]) == (True, True)
    assert checkpoint.complete_steps(tmp_path) == [result.summary["steps"]]


@pytest.mark.long
def test_a_second_signal_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, before = strike(monkeypatch, 2, signal.SIGINT), children(os.getpid())  # processes of other tests
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*overrides), tmp_path)
    assert left.value.code == 130
    output = capsys.readouterr().err
    assert output == "dni-train: stopped without saving; the last checkpoint remains\n"
    assert not (tmp_path / "summary.json").exists()
    assert set(children(os.getpid())) <= set(before)


@pytest.mark.parametrize("lag", [0, 2])
def test_saving_does_not_change_the_result(lag: int, tmp_path: Path) -> None:
    for every in ("3", "null"):
        launch(settings(*SMALL, *LOCAL, f"depth.lag={lag}", "steps=10", f"checkpoint.every={every}"), tmp_path / every)
    assert_same(parameters_of(tmp_path / "3", 2), parameters_of(tmp_path / "null", 2))


def test_a_run_resumes_in_its_own_folder(tmp_path: Path) -> None:
    start = (*SMALL, *LOCAL, "checkpoint.every=10")
    launch(settings(*start, "steps=10"), tmp_path)
    launch(settings(*start, "steps=20", f"resume={tmp_path}"), tmp_path)
    assert trained_steps(tmp_path, 0) == [5, 10, 15, 20]


def damage(run_dir: Path, step: int, name: str) -> None:
    path = checkpoint.folder_of(run_dir, step) / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 4
    path.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_named_and_the_previous_one_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = (*SMALL, *LOCAL, "depth.lag=1", "checkpoint.every=5")
    launch(settings(*start, "steps=20"), tmp_path / "whole")
    launch(settings(*start, "steps=10"), tmp_path / "run")
    damage(tmp_path / "run", 10, "stage-1.safetensors")
    on = launch(settings(*start, "steps=20", f"resume={tmp_path / 'run'}"), tmp_path / "on")
    assert on.summary["steps"] == 20
    assert [message for message in caplog.messages if "damaged" in message] == [
        f"stage 1, step 10: {tmp_path}/run/checkpoints/step-00000010/stage-1.safetensors is damaged: its content does "
        "not match its digest; going back to the checkpoint of step 5"
    ]
    assert trained_steps(tmp_path / "on", 0) == [5, 10, 15, 20]
    assert_same(parameters_of(tmp_path / "on", 2), parameters_of(tmp_path / "whole", 2))
    launch(settings(*start, "steps=20", f"resume={tmp_path / 'run'}"), tmp_path / "run")  # also in its own folder
    assert_same(parameters_of(tmp_path / "run", 2), parameters_of(tmp_path / "whole", 2))
    assert (tmp_path / "run" / "checkpoints" / "damaged-step-00000010").is_dir()


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    start = (*SMALL, *LOCAL, "checkpoint.every=5")
    launch(settings(*start, "steps=10"), tmp_path / "run")
    damage(tmp_path / "run", 10, "stage-0.json")
    given = (*start, "steps=20", f"resume={tmp_path / 'run'}")
    with pytest.raises(ResumeError, match=r"step-00000010/stage-0\.json is damaged: .*; try resume_step=5$"):
        launch(settings(*given, "resume_step=10"), tmp_path / "on")
    damage(tmp_path / "run", 5, "stage-1.json")
    with pytest.raises(ResumeError, match=r"step-00000010/stage-0\.json is damaged: .*; start a new run, without"):
        launch(settings(*given), tmp_path / "on")
    assert not (tmp_path / "on").exists()


def test_a_damaged_best_checkpoint_is_not_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = (*SMALL, *LOCAL, "evaluate.every=5", "evaluate.patience=9", "steps=10", "checkpoint.keep=9")
    launch(settings(*start), tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    worse = [line.replace('"bits_per_label": ', '"bits_per_label": 9') if '"valid"' in line else line for line in lines]
    better = [new if '"step": 10' in new else old for old, new in zip(lines, worse, strict=True)]
    metrics.write_text("".join(f"{line}\n" for line in better))
    damage(tmp_path / "run", 5, "stage-0.safetensors")
    launch(settings(*start[:-2], "steps=12", f"resume={tmp_path / 'run'}"), tmp_path / "on")
    (output,) = [message for message in caplog.messages if "damaged" in message]
    assert output.startswith("the best checkpoint so far is not copied: stage 0, step 5: ")


def test_a_run_on_a_changed_text_cannot_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    start = (*SMALL, f"data.path={text}")
    text.write_text("abc\n" * 200)
    launch(settings(*start, *LOCAL, "steps=5"), tmp_path / "run")
    text.write_text("acb\n" * 200)  # the same symbols: only the digest differs
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*start, *LOCAL, "steps=9", f"resume={tmp_path / 'run'}"), tmp_path / "again")
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"dni-train: resume=.*/run was another run: data.sha256 was \w+, now \w+; leave", line)


def test_a_run_stopped_before_its_first_step_can_resume(tmp_path: Path) -> None:
    start = (*SMALL, *LOCAL, "steps=10", "depth.lag=1")
    config, data = resolve(settings(*start))
    stop = Event()
    stop.set()
    run_threads(Job(config, tmp_path / "stopped", lambda record: None, stop, data))
    assert checkpoint.complete_steps(tmp_path / "stopped") == [0]
    OmegaConf.save(OmegaConf.create(to_plain(config)), tmp_path / "stopped" / "config.yaml")
    launch(settings(*start, f"resume={tmp_path / 'stopped'}"), tmp_path / "part")
    launch(settings(*start), tmp_path / "whole")
    assert trained_steps(tmp_path / "part", 1) == [5, 10]
    assert_same(parameters_of(tmp_path / "part", 2), parameters_of(tmp_path / "whole", 2))
