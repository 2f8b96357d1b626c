"""Whole runs from the command line, also with killed, stopped and failing stages."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from tests.support.commands import (
    LOCAL,
    SMALL,
    Command,
    alive,
    children,
    run,
    settings,
    summary_of,
    trained_steps,
    wait_for,
)
from workers.cli.train import exit_codes
from workers.launch.launcher import launch
from workers.storage import checkpoint

ROOT = Path(__file__).resolve().parents[2]

#: Every step takes at least 40 ms, so that a test can interrupt a run.
SLOW = (*SMALL, "depth=backprop", "transport.delay_ms=20", "launch=processes")

SUMMARY_KEYS = {
    "method", "experiment", "seed", "stages", "transport", "steps", "wall_s", "tokens_per_s", "train", "valid",
    "stage", "restarts", "versions",
}  # fmt: skip
STAGE_KEYS = {"index", "busy", "steps_per_s", "staleness_mean", "predictor_cosine", "peak_rss_mb"}


def test_the_smoke_experiment_writes_a_complete_run(tmp_path: Path) -> None:
    with Command(tmp_path, ("experiment=smoke",)) as command:
        done = command.finish(within=30)
        folder = command.run_dir()
    assert (done.code, done.err) == (0, [])
    assert str(folder) in done.out[-1]
    assert not (folder / ".hydra").exists()
    assert list((folder / "tensorboard").glob("events.*"))
    names = {p.name for p in (folder / "checkpoints" / "step-00000060").iterdir()}
    assert names == {f"stage-{k}.{kind}" for k in (0, 1) for kind in ("json", "safetensors")}
    assert [trained_steps(folder, k) for k in (0, 1)] == [[10, 20, 30, 40, 50, 60]] * 2
    summary = summary_of(folder)
    assert summary.keys() >= SUMMARY_KEYS
    assert [stage.keys() >= STAGE_KEYS for stage in summary["stage"]] == [True, True]
    assert summary["method"] == {"depth": "corrected", "time": "truncated"}
    assert (summary["steps"], summary["transport"], summary["interrupted"]) == (60, "grpc", False)
    assert 0 < summary["valid"]["bits_per_label"] < 6.6  # log2 of 96 characters


@pytest.mark.timeout(90)
@pytest.mark.long
@pytest.mark.parametrize("transport", ["grpc", "torch_distributed"])
def test_a_killed_stage_ends_the_run_with_the_resume_command(transport: str, tmp_path: Path) -> None:
    with Command(tmp_path, (*SLOW, f"transport={transport}", "steps=40", "checkpoint.every=10")) as command:
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

    resume = shlex.split(line.split("resume with: dni-train ")[1])
    again = tmp_path / "again"
    again.mkdir()
    with Command(again, tuple(resume)) as command:
        assert (command.finish().code, last < 40) == (0, True)
        resumed = command.run_dir()
    assert summary_of(resumed)["steps"] == 40
    assert [trained_steps(resumed, k) for k in (0, 1)] == [list(range(5, 41, 5))] * 2


@pytest.mark.long
@pytest.mark.parametrize("stopped", [None, 1])
def test_no_stage_and_no_socket_outlive_a_killed_supervisor(stopped: int | None, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    how = (*SLOW, f"stages={1 if stopped is None else 2}", "steps=100000")
    with Command(tmp_path, how, environment={"TMPDIR": str(tmp_path / "t")}) as command:
        command.until_trained(5)
        stages = command.stages()
        assert stages.keys() == ({0} if stopped is None else {0, 1})
        assert list((tmp_path / "t").glob("dni-*"))
        if stopped is not None:  # a stopped process cannot end itself
            os.kill(stages[stopped], signal.SIGSTOP)
        command.process.send_signal(signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in stages.values()), "the end of all stages", within=5)
        assert not list((tmp_path / "t").glob("dni-*"))


@pytest.mark.long
def test_modules_in_the_current_folder_and_prints_of_workers_do_no_harm(tmp_path: Path) -> None:
    """As with the installed command, the folder of the script is first on the import path."""
    here = tmp_path / "here"
    for name in ("random.py", "queue.py", "workers/__init__.py", "dni/__init__.py", "bin/start", "site/mine.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("raise RuntimeError('not this one')")
    (here / "bin" / "start").write_text("from workers.cli.train import main\nmain()\n")
    (here / "site" / "sitecustomize.py").write_text("print('hello')\nimport mine\n")
    (here / "site" / "mine.py").write_text("import sys\nsys.stderr.write('caution\\n')\nprint('no newline', end='')\n")
    path = {"PYTHONPATH": os.pathsep.join([str(here / "site"), str(ROOT)])}
    start = (sys.executable, str(here / "bin" / "start"))
    with Command(here, (*SMALL, "launch=processes", "steps=5"), start, path) as command:
        done = command.finish()
        folder = command.run_dir()
    assert (done.code, summary_of(folder)["steps"]) == (0, 5), done.err
    logs = [(folder / "logs" / f"stage-{k}.log").read_bytes() for k in (0, 1)]
    assert logs == [b"hello\ncaution\nno newline"] * 2


@pytest.mark.long
def test_python_m_workers_ignores_modules_in_the_current_folder(tmp_path: Path) -> None:
    for name in ("random.py", "queue.py"):
        (tmp_path / name).write_text("raise RuntimeError('not this one')")
    done = run(tmp_path, "stages=0")
    assert (done.code, [line[:11] for line in done.err]) == (2, ["dni-train: "])


@pytest.mark.long
def test_a_frozen_stage_is_named_at_the_end_of_the_run(tmp_path: Path) -> None:
    quick = ("transport.keepalive_s=2", "transport.reconnect_s=0")
    with Command(tmp_path, (*SLOW, *quick, "steps=100000")) as command:
        command.until_trained(5)
        stages = command.stages()
        os.kill(stages[1], signal.SIGSTOP)
        done = command.finish(within=15)
    assert done.code == 1
    (line,) = done.err
    assert re.match(r"dni-train: WorkerLost: stage 0, after step \d+: .*from stage 1.* is gone", line), line
    assert not any(alive(pid) for pid in stages.values())


@pytest.mark.long
def test_a_run_on_the_users_text_in_threads(tmp_path: Path) -> None:
    (tmp_path / "my text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    with Command(tmp_path, (*SMALL, *LOCAL, "data.path='my text.txt'", "steps=20")) as command:
        command.until(lambda: bool(list(tmp_path.glob("outputs/*/*/metrics.jsonl"))), "its start")
        assert not children(command.process.pid)
        done = command.finish()
        summary = summary_of(command.run_dir())
    assert (done.code, done.err) == (0, [])
    assert (summary["data"]["name"], summary["launch"], summary["transport"]) == ("my text.txt", "threads", "local")


def test_a_run_on_a_folder_of_texts(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    (texts / "more").mkdir(parents=True)
    (texts / "a.txt").write_text("abc\n" * 200)
    (texts / "more" / "b.txt").write_text("abcd\n" * 200)
    summary = launch(settings(*SMALL, *LOCAL, f"data.path={texts}", "steps=5"), tmp_path / "run").summary
    assert (summary["steps"], summary["data"]["name"]) == (5, "texts")


@pytest.mark.long
def test_a_too_short_text_is_refused_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("abc" * 30)
    done = run(tmp_path, *SMALL, "data.path=short.txt", "launch=processes")
    assert done.code == 2
    (line,) = done.err
    assert line.startswith(
        "dni-train: this part of the text is too short: 4 streams of 18 characters and one label need"
    )
    assert not (tmp_path / "outputs").exists()


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
