"""Pipelines from the command line: interrupted, with a lost stage, under torchrun; and their handshake."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from threading import Event

import pytest
from torch.distributed import HashStore

from dni.errors import HandshakeRefused
from tests.support.commands import SMALL, Command, alive, settings, summary_of
from tests.support.ranks import piped
from tests.support.runs import assert_close, parameters_of, plain_training
from workers.build.data import resolve
from workers.cli.evaluate import evaluate
from workers.reporting.report import main as report
from workers.runtime.job import Job
from workers.storage import checkpoint

pytestmark = pytest.mark.timeout(120)  # a command starts several processes that import torch


@pytest.mark.long
def test_ctrl_c_ends_all_stages_at_one_step_and_leaves_a_complete_run(tmp_path: Path) -> None:
    method = (*SMALL, "model.layers=3", "depth=zero_bubble", "evaluate.every=20", "launch=processes")
    with Command(tmp_path, (*method, "steps=100000")) as command:
        command.until_trained(25)
        command.process.send_signal(signal.SIGINT)
        done = command.finish()
        folder = command.run_dir()
    summary = summary_of(folder)
    steps = summary["steps"]
    assert (done.code, done.err) == (
        130,
        [f"dni-train: stopped after step {steps}; resume with: dni-train resume={folder}"],
    )
    assert checkpoint.complete_steps(folder) == [steps]
    assert (summary["transport"], summary["window"], len(summary["stage"])) == ("gloo", None, 2)
    plain = settings(*method, f"steps={steps}")
    assert_close(parameters_of(folder, 4), plain_training(plain), 1e-3)
    assert evaluate(folder)["step"] == steps
    assert report([str(folder), "--out", str(tmp_path / "report")]) == 0


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, r"stage 1, after step \d+: its process was killed by SIGKILL; "),
        pytest.param(
            signal.SIGSTOP,
            r"stage 0, after step \d+: step \d+: stage 1 is silent: is its process stopped",
            marks=pytest.mark.long,
        ),
    ],
)
@pytest.mark.long
def test_a_lost_stage_is_named_at_the_end_of_the_run(number: signal.Signals, says: str, tmp_path: Path) -> None:
    method = (*SMALL, "depth=1f1b", "launch=processes", "transport.timeout_s=5", "steps=100000", "checkpoint.every=5")
    with Command(tmp_path, method) as command:
        command.until_saved()
        stages = command.stages()
        os.kill(stages[1], number)
        done = command.finish()
    assert done.code == 1
    (line,) = done.err
    assert re.match(f"dni-train: (WorkerLost|PeerTimeout): {says}", line), line
    assert "resume with: dni-train resume=" in line
    assert not any(alive(pid) for pid in stages.values())


@pytest.mark.long
def test_under_torchrun_it_equals_plain_backpropagation(tmp_path: Path) -> None:
    method = (*SMALL, "model.layers=2", "depth=1f1b", "steps=6", "log_every=2")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "workers")
    with Command(tmp_path, method, program=torchrun) as command:
        done = command.finish(within=100)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "outputs").iterdir()
    assert_close(parameters_of(folder, 2), plain_training(settings(*method)))
    summary = summary_of(folder)
    assert (summary["launch"], summary["transport"], summary["steps"]) == ("external", "gloo", 6)


def test_stages_of_different_runs_do_not_start(tmp_path: Path) -> None:
    from workers.runtime.pipeline.process_group import process_group

    store = HashStore()
    store.set("dni/run/run", "abc next step 1")
    job = Job(resolve(piped("gpipe"))[0], tmp_path / "run", lambda record: None, Event())
    with (
        pytest.raises(HandshakeRefused, match=r"stage 1 is in run [0-9a-f]{16} next step 1, stage 0 in run abc next"),
        process_group(job, 1, store, "127.0.0.1"),
    ):
        pass


def test_stages_of_one_machine_listen_on_loopback_despite_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workers.comm.network_interface import listen_towards

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    listen_towards("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"
