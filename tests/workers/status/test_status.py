"""`dni-status`: a run that is running, has ended, was interrupted, was resumed or has died."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import LOCAL, SMALL, Command
from tests.support.records import train
from tests.support.run_folders import write_run
from tests.support.runs import tiny
from workers.launch.launcher import launch
from workers.status import run_state
from workers.status.command import main
from workers.status.run_state import StageState, holding_up, state_of
from workers.storage.lock import is_locked, locked

SITTING = {"kind": "sitting", "stage": 0, "step": 0, "wall_s": 0.0, "id": "a", "stages": 3}


def write(folder: Path, *records: dict[str, Any], steps: int = 100) -> Path:
    """Write a run of three stages that has no summary."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(f"steps: {steps}\nlog_every: 10\nstages: 3\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def three(folder: Path) -> Path:
    """Write a run whose stage 2 is slow: both others wait for it, stage 0 through stage 1."""
    return write(
        folder, SITTING,
        train(0, 20, steps_per_s=4.0), train(1, 20), train(2, 10, wall_s=1.5),
        train(0, 30, steps_per_s=2.0, waited_next=0.5, wall_s=3.5),
        train(1, 20, staleness=3.0, waited_previous=0.02, waited_next=0.25, wall_s=3.0),
        train(2, 20, steps_per_s=2.5, staleness=None, loss=1.25, wall_s=3.25),
    )  # fmt: skip


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [line.rstrip() for line in str(out).splitlines()]


def test_a_running_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = three(tmp_path)
    written = (folder / "metrics.jsonl").stat().st_mtime
    monkeypatch.setattr(run_state.time, "time", lambda: written + 65)
    with locked(folder):
        headline, *rows, holder, silence = told([str(folder)], capsys)
    assert (
        headline == f"running, step 20 of 100, 0:00:08 left, newest record 0:01:05 ago: {folder}"
    )  # 80 at 10 a second
    assert [row.split() for row in rows[-3:]] == [
        ["0", "30", "0", "2.0", "2.5", "-", "50%", "65", "1", "(50%)"],
        ["1", "20", "10", "10.0", "3.0", "-", "50%", "66", "2", "(25%),", "0", "(2%)"],  # its record was 0.5 s earlier
        ["2", "20", "10", "2.5", "-", "1.2500", "50%", "65", "-"],
    ]
    assert holder == "stage 2 is waited for by stage 0, 1"
    assert silence == "no record for 65 s; at its last rate one comes every 5.0 s"  # 10 steps, 2 a second


def test_a_run_that_died(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = three(tmp_path)
    lines = told([str(folder)], capsys)
    assert lines[0].startswith("died, step 20 of 100, newest record 0:00:0")
    assert lines[-2:] == [
        "no process is running it, and it has no summary.json of its end", "no complete checkpoint was written",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ended", "word"), [("steps", "finished"), ("patience", "finished, out of patience"), ("diverged", "diverged")]
)
def test_a_run_that_ended(ended: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", ended=ended, config="steps: 30\nstages: 2\n")
    lines = told([str(folder)], capsys)
    assert lines[0].startswith(f"{word}, step 20 of 30, newest record ")
    stages = [line.split() for line in lines[-2:]]
    assert [stage[:3] for stage in stages] == [
        ["0", "20", "0"],
        ["1", "20", "0"],
    ]  # the last record of stage 0 is of 10


def test_a_run_that_is_resumed_in_its_folder_counts_from_the_newest_sitting(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sittings=1, ended="interrupted")
    records = (folder / "metrics.jsonl").read_text()
    again = {**SITTING, "step": 20, "stages": 3}
    (folder / "metrics.jsonl").write_text(json.dumps(SITTING) + "\n" + records)
    assert (state_of(folder).state, state_of(folder).ended) == ("ended", "interrupted")
    (folder / "metrics.jsonl").write_text(json.dumps(SITTING) + "\n" + records + json.dumps(again) + "\n")
    with locked(folder):
        run = state_of(folder)
    assert (run.state, run.ended, run.resume) == ("running", None, None)
    assert [(stage.step, stage.steps_per_s, stage.age_s) for stage in run.stages] == [(20, None, None)] * 3
    assert state_of(folder).state == "died"  # the summary is of the first sitting


def test_the_table_fits_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = three(tmp_path)
    wide = {width: [] for width in (120, 80, 60, 40)}
    for width in wide:
        monkeypatch.setenv("COLUMNS", str(width))
        table = told([str(folder)], capsys)[1:-3]
        assert max(map(len, table)) <= width
        wide[width] = table[-2].split()
        assert "…" not in "".join(table)
    assert len(wide[120]) == len(wide[80]) > len(wide[60]) > len(wide[40])
    assert wide[40][:2] + wide[40][-4:] == ["1", "20", "2", "(25%),", "0", "(2%)"]


def test_json_has_all_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = told([str(three(tmp_path)), "--json"], capsys)
    found = json.loads(line)
    assert (found["state"], found["step"], found["steps"], found["left_s"]) == ("died", 20, 100, None)
    assert [stage["waits_for"] for stage in found["stages"]] == [1, 2, None]
    assert found["stages"][1]["waits"] == {"0": 0.02, "2": 0.25}
    assert found["holding_up"] == {"2": [0, 1]}


@pytest.mark.parametrize("name", [None, "metrics.jsonl"])
def test_no_run_and_a_damaged_one_are_one_line(
    name: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name:
        (tmp_path / name).write_text("[1]\n")
    assert main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"dni-status: {tmp_path}")
    assert err.count("\n") == 1


def stage(index: int, **waits: float) -> StageState:
    shares = {int(key[1:]): share for key, share in waits.items()}
    return StageState(index, 0, 0, None, None, None, None, shares, None)


def test_stages_that_wait_for_each_other_hold_up_nobody() -> None:
    assert holding_up([stage(0, s1=0.5), stage(1, s0=0.5)]) == {}
    assert holding_up([stage(0, s1=0.09), stage(1)]) == {}  # it hardly waits
    assert holding_up([stage(0), stage(1, s0=0.4, s2=0.3), stage(2, s1=0.2)]) == {0: [1, 2]}
    assert holding_up([stage(0, s1=0.2), stage(1), stage(2, s1=0.2)]) == {1: [0, 2]}


def test_a_held_lock_is_seen_and_left_alone(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert not (tmp_path / ".lock").exists()
    with locked(tmp_path):
        assert is_locked(tmp_path)
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_stages_record_how_long_they_wait_for_each_neighbour(tmp_path: Path) -> None:
    """All time that a stage with one neighbour is blocked, it waits for that one."""
    launch(tiny(depth={"method": "backprop"}, steps=10, log_every=10), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = sorted((r for r in records if r["kind"] == "train"), key=lambda record: record["stage"])
    assert first["waited_next"] == pytest.approx(1 - first["busy"], abs=0.01)
    assert last["waited_previous"] == pytest.approx(1 - last["busy"], abs=0.01)
    assert 0 < first["waited_next"] < 1
    assert "waited_previous" not in first
    assert "waited_next" not in last
    assert first["dropped_targets"] == 0


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_real_run_while_it_runs_and_after_it_was_killed(tmp_path: Path) -> None:
    how = (*SMALL, *LOCAL, "steps=100000", "transport.delay_ms=5", "checkpoint.every=5")
    with Command(tmp_path, how) as command:
        command.until_trained(10)
        command.until_saved()
        folder = command.run_dir()
        running = state_of(folder)
        os.kill(command.process.pid, signal.SIGKILL)
        command.process.wait()
    died = state_of(folder)
    assert (running.state, running.steps, running.resume) == ("running", 100000, None)
    assert len(running.stages) == 2
    assert running.step >= 5
    assert (died.state, died.ended) == ("died", None)
    assert died.resume == f"dni-train resume={folder}"
    assert died.step >= running.step
