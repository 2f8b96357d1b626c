"""workers/api.py: runs from Python with the settings of dni-train."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

import workers
from dni.errors import ConfigError
from tests.support.commands import LOCAL, SMALL
from workers import TrainedRun, train
from workers.cli.train import main
from workers.reporting.tasks import settings_of
from workers.tracking.run import find_runs, read_metrics

QUICK = [*SMALL, *LOCAL, "log_every=1", "checkpoint.every=null", "depth=backprop"]


def test_a_run_equals_that_of_the_command_and_returns_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dni-train", *QUICK, "steps=4", "hydra.run.dir=command"])
    main()
    run = train([*QUICK, "steps=4"], folder="python")
    losses = run.curve("train")["loss"]
    expected = [r["loss"] for r in read_metrics(Path("command/metrics.jsonl")) if r["kind"] == "train" and r["stage"]]
    assert (losses.index.tolist(), losses.tolist()) == ([1, 2, 3, 4], expected)
    assert isinstance(run.metrics, pd.DataFrame)
    assert set(run.metrics["kind"]) == {"sitting", "train", "valid"}
    assert set(run.curve("train", stage=0).index) == {1, 2, 3, 4}
    assert "accuracy" not in run.curve("train")
    assert (run.summary["steps"], run.interrupted) == (4, False)
    assert TrainedRun(Path("python")).summary == run.summary
    first, second = (settings_of(found) for found in find_runs([run.folder, "command"]))
    assert first == second  # a report treats them alike


def test_the_default_folder_is_the_commands_and_a_used_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train([*QUICK, "steps=1"])
    assert run.folder.match("outputs/*-*-*/*-*-*-*")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="already holds a run"):
        train([*QUICK, "steps=2"], folder=run.folder)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train([*QUICK, "steps=4"], folder=tmp_path / "whole")
    train([*QUICK, "steps=2"], folder=tmp_path / "half")
    more = train([f"resume={tmp_path / 'half'}", "steps=4"], folder=tmp_path / "half")
    assert more.curve()["loss"].tolist() == whole.curve()["loss"].tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("experiment=smoke", r"write train\(\['experiment=smoke'\]\)"),
        (["-m", "seed=0,1"], "-m: train takes settings"),
        (["hydra.run.dir=x"], "argument folder="),
        (["optimizer.learning_rat=1"], r"did you mean `optimizer.learning_rate`\?"),
        (["seed=0,1"], "seed=0,1"),
        (["launch=external"], "use the command dni-train there"),
        (["resume=nowhere"], "resume=nowhere"),
        ([*QUICK, "data.sequence=7"], "is not a multiple of data.window=6"),
    ],
)
def test_bad_settings_are_a_config_error_and_leave_no_files(words: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(words, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_state_of_a_hydra_application_is_kept(tmp_path: Path) -> None:
    with initialize_config_module("workers.conf", version_base="1.2"):
        mine = GlobalHydra.instance().hydra
        train([*QUICK, "steps=1"], folder=tmp_path / "a")
        train([*QUICK, "steps=1"], folder=tmp_path / "b")
        assert GlobalHydra.instance().hydra is mine
        assert compose("config", ["seed=3"]).seed == 3
    assert not GlobalHydra.instance().is_initialized()


def test_torch_and_signal_handlers_are_restored(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    handler, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    train([*QUICK, "steps=1", "launch.torch_threads=2"], folder=tmp_path / "a")
    assert torch.equal(torch.rand(3), expected)
    assert (signal.getsignal(signal.SIGINT), torch.get_num_threads()) == (handler, threads)


def test_another_thread_may_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signal handlers cannot be installed there."""
    found: list[object] = []
    monkeypatch.setattr(signal, "signal", lambda *_: found.append("a signal handler"))
    thread = threading.Thread(target=lambda: found.append(train([*QUICK, "steps=1"], folder=tmp_path / "a").summary))
    thread.start()
    thread.join(60)
    (summary,) = found
    assert isinstance(summary, dict)
    assert summary["steps"] == 1


def test_an_interrupted_run_is_returned_as_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.launch.launcher.run_stages", lambda job, stop, *_: stop.because("interrupted"))
    assert train([*QUICK, "steps=5"], folder=tmp_path / "a").interrupted


@pytest.mark.long
def test_processes_start_from_a_main_module_without_a_file(tmp_path: Path) -> None:
    """As in a notebook."""
    program = f"""
from workers import train
assert "__file__" not in globals()
run = train({[*SMALL, "steps=2", "log_every=1", "launch=processes"]!r}, folder="run")
print(run.summary["steps"], run.summary["launch"], len(run.curve()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 processes 2"


def test_the_package_exports_its_public_names() -> None:
    assert {name: getattr(workers, name) for name in workers.__all__} == {"train": train, "TrainedRun": TrainedRun}
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = workers.trian
