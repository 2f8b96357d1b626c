"""A sweep is checked before it begins, and lists its remaining jobs if it ends early."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import workers.launch.launcher
from tests.support.commands import LOCAL, SMALL
from workers.cli.sweep import combinations
from workers.cli.train import main
from workers.launch.launcher import run_stages

pytestmark = pytest.mark.usefixtures("own_logging")

QUICK = (*SMALL, *LOCAL, "depth=backprop", "steps=2", "hydra.sweep.dir=sweep")


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


def test_one_bad_job_refuses_the_whole_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (*QUICK, "seed=0,1", "data.sequence=18,7", "data.path=null,nowhere.txt")
    assert ended(monkeypatch, "-m", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines[:-1]] == [f"dni-train: job {n}" for n in (1, 2, 3, 5, 6, 7)]
    assert "nowhere.txt" in lines[0]
    assert "data.sequence=7 is not a multiple of data.window=6" in lines[1]
    assert lines[-1] == "dni-train: 6 of the 8 jobs of this sweep cannot run; none was started"
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_an_interrupted_sweep_lists_commands_for_the_remaining_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers.launch.launcher, "run_stages", _stopped_in(2))
    assert ended(monkeypatch, "-m", *QUICK, "seed=0,1,2") == 130
    out = [line.partition("[WARNING] ")[2] or line for line in capsys.readouterr().out.splitlines()]
    (place,) = [n for n, line in enumerate(out) if "run the rest with" in line]
    assert out[place].startswith(
        "of the 3 runs of this sweep, finished: 0; unfinished: 1; not started: 2; run the rest with:"
    )
    monkeypatch.setattr(workers.launch.launcher, "run_stages", run_stages)
    for line in out[place + 1 : place + 3]:
        program, *words = shlex.split(line)
        assert (program, ended(monkeypatch, *words)) == ("dni-train", 0)
    found = {path.parent.name: json.loads(path.read_text()) for path in Path("sweep").glob("*/summary.json")}
    finished = {name: summary["seed"] for name, summary in found.items() if summary["steps"] == 2}
    assert finished == {"0": 0, "1-again": 1, "2": 2}  # the second had saved nothing


def _stopped_in(job: int) -> Callable[..., Any]:
    """Raise Ctrl-C before the first step of the job with this number, counted from 1."""
    count = 0

    def stages(each: Any, stop: Any, rank_info: Any = None) -> None:
        nonlocal count
        count += 1
        if count == job:
            stop.because("interrupted")
        else:
            run_stages(each, stop, rank_info)

    return stages
