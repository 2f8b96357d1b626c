"""SIGTERM from an engine: the run is saved and says how to go on, within 30 seconds, under every launcher."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import LOCAL, SMALL, Command, children, summary_of
from tests.support.runs import tiny
from workers.launch import launcher
from workers.launch.external import leave_before
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.system.signals import SAME_REQUEST_S, insists
from workers.tracking.early_stopping import without_broken_off
from workers.tracking.monitor import Monitor

WITHIN_S = 30.0

ENDLESS = (*SMALL, "steps=100000", "transport.delay_ms=5")

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "workers")

LAUNCHERS = {
    "threads": ((sys.executable, "-m", "workers"), (*ENDLESS, *LOCAL)),
    "processes": ((sys.executable, "-m", "workers"), (*ENDLESS, "launch=processes")),
    "pipeline": ((sys.executable, "-m", "workers"), (*SMALL, "steps=100000", "launch=processes", "depth=gpipe")),
    "torchrun": (TORCHRUN, (*ENDLESS, "hydra.run.dir=outputs/of/run")),
}


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", LAUNCHERS)
def test_sigterm_saves_and_says_how_to_go_on(name: str, tmp_path: Path) -> None:
    """Every process of the job is signalled; torchrun passes the signal on besides."""
    program, how = LAUNCHERS[name]
    with Command(tmp_path, how, program=program) as command:
        command.until_trained(5)
        begun = time.monotonic()
        for pid in [*children(command.process.pid), command.process.pid]:
            os.kill(pid, signal.SIGTERM)
        done = command.finish(within=WITHIN_S + 10)
        took = time.monotonic() - begun
    (folder,) = (path.parent for path in tmp_path.glob("outputs/*/*/summary.json"))
    summary = summary_of(folder)
    assert (summary["interrupted"], checkpoint.complete_steps(folder)[-1]) == (True, summary["steps"])
    hint = f"dni-train: stopped after step {summary['steps']}; resume with: dni-train resume={folder}"
    assert hint in done.err
    assert done.code == 130 or name == "torchrun"  # torchrun has a code of its own
    assert took < WITHIN_S


def test_an_interrupt_in_a_validation_pass_does_not_wait_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last stage records step 4 before its pass, when the first can be at most 4 windows ahead."""

    class Struck(Monitor):
        def __call__(self, record: Mapping[str, Any]) -> None:
            super().__call__(record)
            if (record["kind"], record["stage"], record["step"]) == ("train", 1, 4):
                handler: Any = signal.getsignal(signal.SIGTERM)
                handler(signal.SIGTERM, None)

    monkeypatch.setattr(launcher, "Monitor", Struck)
    many = {"every": 4, "windows": 100}
    result = launch(tiny(steps=100, log_every=4, depth={"method": "backprop"}, evaluate=many), tmp_path)
    assert (result.interrupted, result.summary["steps"]) == (True, 4)
    assert checkpoint.complete_steps(tmp_path) == [4]
    kinds = {json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()}
    assert kinds == {"sitting", "train"}  # a part of a pass is no figure


def test_figures_of_a_broken_pass_are_dropped() -> None:
    kept: list[dict[str, Any]] = []
    sink = without_broken_off(kept.append)
    for kind, step in (("valid", 2), ("broken_off", 4), ("train", 4), ("own", 4), ("valid", 4), ("valid", 6)):
        sink({"kind": kind, "step": step})
    assert [(record["kind"], record["step"]) for record in kept] == [("valid", 2), ("train", 4), ("valid", 6)]


def test_only_an_insistent_signal_ends_a_stopping_run_at_once() -> None:
    assert insists(signal.SIGINT, 0.0)
    assert not insists(signal.SIGTERM, SAME_REQUEST_S - 1)  # from the engine, and once more from its launcher
    assert insists(signal.SIGTERM, SAME_REQUEST_S)
    assert not insists(signal.SIGHUP, 60.0)
    assert not insists(signal.SIGUSR2, 60.0)


def test_a_stage_that_still_waits_for_its_links_leaves_at_once() -> None:
    linked = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        leave_before(linked)
    linked.set()
    leave_before(linked)


@pytest.mark.long
@pytest.mark.timeout(150)
def test_sigterm_before_the_other_stages_have_come(tmp_path: Path) -> None:
    alone = (*SMALL, "launch=external", "transport.peers=[127.0.0.1:1,127.0.0.1:2]", "hydra.run.dir=outputs/of/run")
    with Command(tmp_path, alone, environment={"RANK": "0", "WORLD_SIZE": "2"}) as command:
        command.until((tmp_path / "outputs/of/run/records/stage-1.jsonl").exists, "its wait for the second stage")
        begun = time.monotonic()
        command.process.send_signal(signal.SIGTERM)
        done = command.finish(within=WITHIN_S)
    assert done.code == 130
    assert done.err == ["dni-train: stopped without saving; the last checkpoint remains"]
    assert time.monotonic() - begun < WITHIN_S
