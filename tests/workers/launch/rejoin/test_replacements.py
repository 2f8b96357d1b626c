"""The supervisor starts a lost stage again alone: real processes, with small programs instead of stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dni.errors import EndedEarly, WorkerLost
from tests.support.runs import tiny
from workers.launch import supervisor as processes
from workers.launch.restarts import Restarts
from workers.launch.supervisor import Supervisor
from workers.runtime.job import Job
from workers.system import spawn
from workers.tracking.early_stopping import Stop

#: Replaces `workers.launch.stage_main`, without slow imports.
PROGRAM = """\
import sys
sys.path[:] = {path}
from workers.system.spawn import begin
begin({parent})
import json, os, socket
incarnation, stage = int(sys.argv[-3]), int(sys.argv[-1])
channel = socket.socket(fileno=int(sys.argv[-2]))
lines = channel.makefile()

def say(**message):
    channel.sendall(json.dumps(message).encode() + b"\\n")

def heard(name):
    for line in lines:
        message = json.loads(line)
        print(json.dumps(message), flush=True)
        if name in message:
            return
"""

#: Of three stages, the one in the middle is killed once it and the last one have begun.
MIDDLE = """
if stage == 2:
    say(event="going", step=1)  # before its address reaches stage 1
if stage:
    say(event="listening", address="%d.%d" % (stage, incarnation))
if stage == 0:
    heard("lost")
    heard("peer")
elif stage == 1:
    heard("peer")
    say(event="going", step=1 + 6 * incarnation)
    if incarnation == 0:
        say(event="record", record=dict(kind="train", stage=1, step=3))
        os.kill(os.getpid(), 9)
else:
    heard("lost")
say(event="done")
"""

#: The last of two stages ends as soon as it has begun, or before.
AT_ONCE = """
if stage == 0:
    heard("nothing")
say(event="listening", address="a")
if incarnation < 1:
    say(event="going", step=1)
os._exit(3)
"""

Play = Callable[..., Supervisor]


@pytest.fixture
def records() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[dict[str, Any]]) -> Play:
    """A factory of supervisors of stages that run a program, with the given number of restarts and depth method."""

    def make(program: str, restarts: int, stages: int, **changes: Any) -> Supervisor:
        monkeypatch.setattr(spawn, "PROGRAM", PROGRAM + program.replace("{", "{{").replace("}", "}}"))
        monkeypatch.setattr(processes, "GRACE_S", 0.3)
        monkeypatch.setattr(processes, "Spare", lambda environment: None)  # it would run the real program
        made = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes", "restarts": restarts}, **changes}
        job = Job(tiny(stages=stages, **made), tmp_path, records.append, Stop())
        return Supervisor(job, Restarts(restarts))

    return make


def log_of(supervisor: Supervisor, stage: int) -> list[Any]:
    return [json.loads(line) for line in supervisor.children[stage].log.read_text().splitlines()]


def test_neighbours_of_a_lost_stage_are_told_and_get_its_new_address(
    play: Play, records: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = play(MIDDLE, restarts=1, stages=3)
    supervisor.run()
    assert log_of(supervisor, 0) == [{"peer": "1.0"}, {"lost": 1}, {"peer": "1.1"}]
    assert log_of(supervisor, 1) == [{"peer": "2.0"}] * 2  # of both of its processes
    assert log_of(supervisor, 2) == [{"lost": 1}]
    first, back = records
    assert (first["step"], back["kind"], back["stage"], back["step"], back["restarts"]) == (3, "rejoined", 1, 7, 1)
    assert 0 <= back["noticed_s"] <= back["away_s"]
    assert caplog.messages[0] == "stage 1, after step 3: its process was killed by SIGKILL; it starts again alone"
    assert caplog.messages[1].startswith("stage 1 is back at step 7, ")


def test_a_stage_that_is_lost_before_it_is_back_ends_the_run(play: Play) -> None:
    supervisor = play(AT_ONCE, restarts=5, stages=2)
    with pytest.raises(EndedEarly, match="stage 1, after step 0: its process ended with status 3"):
        supervisor.run()
    assert supervisor._replacements.incarnations == [0, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": {"method": "backprop"}},
        {"depth": {"method": "synthetic", "lag": 1}},
        {"depth": {"method": "delayed"}},
        {"evaluate": {"probe": 5}},
        {"optimizer": {"clip_norm": "global"}},
        {"transport": {"kind": "torch_distributed"}},
        {"transport": {"kind": "grpc", "bind": "127.0.0.1:4000"}},
        {"launch": {"mode": "processes", "restarts": 0}},
        {"launch": {"mode": "external", "restarts": 3}},
    ],
)
def test_other_runs_start_again_as_a_whole(changes: dict[str, Any]) -> None:
    alone: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes", "restarts": 3}}
    assert tiny(**alone).replaces_stages
    assert not tiny(**alone | changes).replaces_stages


@pytest.mark.parametrize("depth", ["synthetic", "local", "corrected"])
@pytest.mark.parametrize("time", ["truncated", "full", "synthetic"])
def test_methods_whose_targets_may_be_missing_take_gaps(depth: str, time: str) -> None:
    config = tiny(
        depth={"method": depth}, time={"method": time}, transport={"kind": "grpc"}, launch={"mode": "auto",
        "restarts": 1},
    )  # fmt: skip
    assert config.replaces_stages


def test_restarts_of_stages_and_of_the_run_are_counted_together() -> None:
    restarts = Restarts(2)
    assert [restarts.spend(4, 1), restarts.spend(4, 2), restarts.count] == [None, None, 2]
    assert restarts.spend(9) == "launch.restarts=2 are used up"
    restarts = Restarts(5)
    assert [restarts.spend(4, 1), restarts.spend(5, 1)] == [None, None]
    assert restarts.spend(5, 1) == "it was lost at step 5 before"
    assert restarts.spend(9) == "it was lost at step 5 before"  # nor as a whole


def test_a_lost_first_stage_ends_the_run(play: Play) -> None:
    program = MIDDLE.replace("stage == 0:", "stage == 0:\n    heard('peer'); os._exit(3)\nelif stage == 9:")
    program = program.replace("if incarnation == 0:", "heard('nothing')\n    if incarnation == 9:")
    with pytest.raises(WorkerLost, match="stage 0, after step 0"):
        play(program, restarts=5, stages=3).run()
