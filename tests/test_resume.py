"""A run that is stopped saves its state, and goes on as if nothing had happened."""

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

from tests.commands import LOCAL, SMALL, Command, children, settings, summary_of, trained_steps
from tests.runs import assert_same, parameters_of
from workers import checkpoint, launcher
from workers.assembly import Job
from workers.command import exit_codes
from workers.config import to_plain
from workers.launcher import launch
from workers.monitor import Monitor
from workers.sources import resolve
from workers.threads import run_threads


def resumed(folder: Path, target: Path, *more: str) -> Path:
    """What `dni-train resume=FOLDER MORE` does, with its run folder named."""
    launch(settings(f"resume={folder}", *more), target)
    return target


def test_ctrl_c_stops_in_good_order_and_the_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """An interruption saves, and to save means to wait for all targets that are under way.

    With a lag these are kept until their step, so that where a run was stopped does not show in its result.
    """
    method = (*SMALL, "depth.lag=2", "transport.delay_ms=5", "steps=100000")
    with Command(tmp_path, (*method, "launch=processes")) as command:
        command.until_trained(10)
        for pid in command.stages().values():
            os.kill(pid, signal.SIGTERM)  # a cluster engine tells every process; the supervisor alone decides
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


def strike(monkeypatch: pytest.MonkeyPatch, times: int, number: signal.Signals = signal.SIGTERM) -> tuple[str, ...]:
    """A run without end in one process, whose supervisor is signalled while it passes on a record."""
    struck: list[Mapping[str, Any]] = []

    class Struck(Monitor):
        def __call__(self, record: Mapping[str, Any]) -> None:
            super().__call__(record)
            if record["step"] >= 10 and len(struck) < times:
                struck.append(record)
                signal.raise_signal(number)

    monkeypatch.setattr(launcher, "Monitor", Struck)
    return (*SMALL, "stages=1", "launch=processes", "steps=100000", "checkpoint.every=null")


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGHUP, 2)])
def test_a_signal_in_the_middle_of_a_record_stops_in_good_order(
    number: signal.Signals, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that is closed may say so twice, once by its shell."""
    result = launch(settings(*strike(monkeypatch, times, number)), tmp_path)
    assert (result.interrupted, result.summary["interrupted"]) == (True, True)
    assert checkpoint.complete_steps(tmp_path) == [result.summary["steps"]]


def test_a_second_signal_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, before = strike(monkeypatch, 2), children(os.getpid())  # those of other tests
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*overrides), tmp_path)
    assert left.value.code == 130
    said = capsys.readouterr().err
    assert said == "dni-train: stopped at once; nothing was saved after the last checkpoint\n"
    assert not (tmp_path / "summary.json").exists()
    assert set(children(os.getpid())) <= set(before)


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


def test_a_run_on_a_text_that_has_changed_since_cannot_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    start = (*SMALL, f"data.path={text}")
    text.write_text("abc\n" * 200)
    launch(settings(*start, *LOCAL, "steps=5"), tmp_path / "run")
    text.write_text("acb\n" * 200)  # the same symbols, so only its digest tells
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*start, *LOCAL, "steps=9", f"resume={tmp_path / 'run'}"), tmp_path / "again")
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"dni-train: resume=.*/run was another run: data.sha256 was \w+, now \w+; leave", line)


def test_a_run_that_was_stopped_before_its_first_step_can_go_on(tmp_path: Path) -> None:
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
