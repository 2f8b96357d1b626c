"""A sweep goes on when a run fails, ends with a table, and can be started again: nothing is run twice."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import psutil
import pytest

from tests.support.commands import LOCAL, SMALL, settings, summary_of, trained_steps, wait_for
from tests.support.runs import assert_same, parameters_of
from workers.cli.sweep.check import combinations
from workers.cli.sweep.index import Progress, progress_of
from workers.cli.train import main
from workers.launch.launcher import launch
from workers.storage import checkpoint

pytestmark = pytest.mark.usefixtures("own_logging")

QUICK = (*SMALL, *LOCAL, "depth=backprop", "hydra.sweep.dir=sweep")


def ended(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Return the exit code of `dni-train WORDS`."""
    monkeypatch.setattr("sys.argv", ["dni-train", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_jobs_are_in_hydras_order_without_its_own_settings() -> None:
    words = [
        "-m",
        "seed=0,1",
        "hydra.sweep.dir=x",
        "model.split_points=[a,b]",
        "depth=backprop,local",
        "data.path='a b'",
    ]
    rest = "model.split_points=[a,b]"
    assert combinations(words) == [
        [f"seed={seed}", rest, f"depth={depth}", "data.path='a b'"]
        for seed in (0, 1)
        for depth in ("backprop", "local")
    ]


def states(out: str) -> list[tuple[str, str]]:
    """Return the folder and the state of every row of the table at the end of a command's output."""
    state = "finished before|finished|failed|diverged|interrupted|not started"
    return re.findall(rf"^ *(\S+) .*?  ({state})  ", out.rpartition("\u2500\n")[2], flags=re.MULTILINE)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_without_any_run_that_can_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended(monkeypatch, "-m", *QUICK, "seed=0,1", "data.sequence=7") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == ["run 0 (seed=0)", "run 1 (seed=1)"]
    assert "data.sequence=7 is not a multiple of data.window=6" in lines[0]
    assert lines[-1] == "dni-train: none of the 2 runs of this sweep can run; nothing was started"
    assert not list(tmp_path.iterdir())


def test_the_number_of_runs_at_a_time_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended(monkeypatch, "-m", *QUICK, "seed=0,1", "hydra.launcher.jobs=0") == 2
    assert "hydra.launcher.jobs=0 must be a number of runs at a time, 1 or more" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(600)
def test_failed_runs_are_reported_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Runs 0 and 1 can run, and 1 diverges; the others have no file, or a wrong length of sequences."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    words = ("-m", *QUICK, "steps=20", "optimizer=sgd", "optimizer.clip=null")
    sweep = (*words, "data.path=null,nowhere.txt", "optimizer.learning_rate=0.1,1e38", "data.sequence=18,7")
    assert ended(monkeypatch, *sweep) == 1
    out = capfd.readouterr().out
    assert states(out) == [
        ("0", "finished"), ("1", "diverged"), *((str(number), "failed") for number in range(2, 8)),
    ]  # fmt: skip
    assert "data.sequence=7 is not a multiple of data.window=6" in out
    assert "nowhere.txt" in out
    found = tmp_path / "sweep" / "0"
    launch(settings(*SMALL, *LOCAL, "depth=backprop", *words[-3:], "optimizer.learning_rate=0.1"), tmp_path / "one")
    assert_same(parameters_of(found, 2), parameters_of(tmp_path / "one", 2))
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.name.isdecimal()) == ["0", "1"]

    kept = {name: content(tmp_path / "sweep" / name) for name in ("0", "1")}
    assert ended(monkeypatch, *sweep) == 1
    assert states(capfd.readouterr().out)[:3] == [("0", "finished before"), ("1", "diverged"), ("2", "failed")]
    assert {name: content(tmp_path / "sweep" / name) for name in ("0", "1")} == kept

    assert ended(monkeypatch, *words, "optimizer.learning_rate=0.1", "seed=1,0") == 0
    assert states(capfd.readouterr().out) == [
        ("0-2", "finished"),
        ("0", "finished before"),
    ]  # settings count, not order
    assert summary_of(tmp_path / "sweep" / "0-2")["seed"] == 1
    assert content(found) == kept["0"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_interrupted_sweep_is_resumed_and_equals_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C comes when both running runs have saved; the third is not started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    method = ("steps=60", "checkpoint.every=5", "emulate.forward_ms=20")
    sweep = ("-m", *QUICK, *method, "seed=0,1,2", "hydra.launcher.jobs=2")
    folders = [tmp_path / "sweep" / str(seed) for seed in range(3)]

    def interrupt() -> None:
        wait_for(lambda: all(checkpoint.complete_steps(each) for each in folders[:2]), "two checkpoints", within=300)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    assert ended(monkeypatch, *sweep) == 130
    watcher.join()
    assert states(capfd.readouterr().out) == [("0", "interrupted"), ("1", "interrupted"), ("2", "not started")]
    assert [progress_of(each, 60) for each in folders] == [Progress.saved, Progress.saved, Progress.absent]
    stopped = [summary_of(each)["steps"] for each in folders[:2]]
    assert all(5 <= step < 60 for step in stopped)

    (tmp_path / "sweep" / "1" / "summary.json").unlink()  # as if it had been killed
    assert ended(monkeypatch, *sweep) == 0
    assert states(capfd.readouterr().out) == [("0", "finished"), ("1", "finished"), ("2", "finished")]
    for seed, found in enumerate(folders):
        launch(settings(*SMALL, *LOCAL, "depth=backprop", *method, f"seed={seed}"), tmp_path / f"one-{seed}")
        assert_same(parameters_of(found, 2), parameters_of(tmp_path / f"one-{seed}", 2))
        assert trained_steps(found, 0) == trained_steps(tmp_path / f"one-{seed}", 0)  # each step is recorded once


@pytest.mark.long
@pytest.mark.timeout(600)
def test_stages_that_are_processes_are_forked_and_equal_those_of_a_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stage of the first run is killed; the second run comes after it, in new processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    alone = (*SMALL, "depth=backprop", "launch=processes", "checkpoint.every=6", "seed=3")
    folders = [tmp_path / "sweep" / name for name in ("0", "1")]

    def kill_a_stage() -> None:
        wait_for(lambda: bool(checkpoint.complete_steps(folders[0])), "a checkpoint", within=300)
        server = [each for each in psutil.Process().children() if "forkserver" in " ".join(each.cmdline())]
        (stages,) = (run.children() for each in server for run in each.children())
        assert [stage.cmdline() for stage in stages] == [server[0].cmdline()] * 2  # forked, not started
        stages[1].kill()

    watcher = threading.Thread(target=kill_a_stage)
    watcher.start()
    assert ended(monkeypatch, "-m", *alone, "hydra.sweep.dir=sweep", "steps=20000,12") == 1
    watcher.join()
    out = capfd.readouterr().out
    assert states(out) == [("0", "failed"), ("1", "finished")]
    assert "stage 1, after step" in out
    assert "its process was killed by SIGKILL" in out
    launch(settings(*alone, "steps=12"), tmp_path / "alone")
    assert_same(parameters_of(folders[1], 2), parameters_of(tmp_path / "alone", 2))
    for name in ("loss", "bits_per_label"):
        assert summary_of(folders[1])["train"][name] == summary_of(tmp_path / "alone")["train"][name]


def test_how_far_a_run_has_come(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert progress_of(folder, 10) is Progress.absent
    folder.mkdir()
    assert progress_of(folder, 10) is Progress.started
    for ended_by, interrupted, steps, progress in (
        ("steps", "false", 10, Progress.finished),
        ("patience", "false", 4, Progress.finished),
        ("interrupted", "true", 10, Progress.finished),  # the signal came after the last step
        ("interrupted", "true", 0, Progress.started),
        ("diverged", "false", 4, Progress.diverged),
    ):
        summary = f'{{"ended": "{ended_by}", "interrupted": {interrupted}, "steps": {steps}}}'
        (folder / "summary.json").write_text(summary)
        assert progress_of(folder, 10) is progress
