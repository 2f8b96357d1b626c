"""The server of a sweep: when it starts, what it has imported, and which stages are forked ahead."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import SMALL, settings
from workers.cli.sweep import server
from workers.cli.sweep.run_process import Task, stages_ahead
from workers.config.convert import to_plain

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("words", "started"),
    [
        ("-m seed=0,1", 1),
        ("hydra.mode=MULTIRUN seed=0,1", 1),
        ("seed=0", 0),
        ("--help", 0),
        ("-m seed=0,1 hydra/launcher=submitit_slurm", 0),
    ],
)
def test_only_a_sweep_on_this_machine_has_a_server(words: str, started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[None] = []
    monkeypatch.setattr(server, "Server", lambda: made.append(None))
    server.start_early(words.split())
    assert len(made) == started


@pytest.mark.parametrize(
    ("words", "share", "ahead"),
    [
        ("launch=processes launch.torch_threads=1", None, 2),
        ("launch=processes launch.torch_threads=2", None, 2),
        ("launch=processes launch.torch_threads=3", None, 0),  # 6 threads on 4 cores
        ("launch=processes launch.torch_threads=null", 3, 0),
        ("launch=processes launch.torch_threads=null", None, 2),  # each stage gets 2 of the 4 cores
        ("launch=processes launch.torch_threads=1 stages=8 model.layers=8", None, 8),
        ("launch=threads transport=local", None, 0),
        ("launch=auto transport=local", None, 0),
        ("launch=external", None, 0),
    ],
)
def test_stages_are_forked_ahead_unless_openmp_must_wait_patiently(
    words: str, share: int | None, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert stages_ahead(settings(*SMALL, *words.split()), share) == ahead


#: Runs a pickled task, as a run of a sweep, and prints the modules that only this run has imported: not those of torch
#: that are its own, which come and go with its versions.
PROGRAM = """\
import os, pickle, sys
sys.path.insert(0, sys.argv[1])
import workers.cli.sweep.imports
from workers.cli.sweep import run_process
run_process._end_with_parent = lambda: None
task = pickle.load(open("task", "rb"))
before, out = set(sys.modules), os.fdopen(os.dup(1), "w")
run_process.run_task(task)
slow = ("torch", "tensorboard", "grpc", "google", "fsspec", "dni", "workers")
new = sorted(name for name in set(sys.modules) - before if name.partition(".")[0] in slow and "._" not in name)
out.write(" ".join(new))
"""


@pytest.mark.long
def test_a_run_imports_nothing_slow_that_the_server_has_not_imported(tmp_path: Path) -> None:
    config = settings(*SMALL, "launch=threads", "transport=local", "steps=4")
    task = Task(to_plain(config), str(tmp_path / "run"), str(tmp_path / "console"), {"version": 1, "root": None})
    (tmp_path / "task").write_bytes(pickle.dumps(task))
    command = [sys.executable, "-c", PROGRAM, str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "run" / "summary.json").exists()
