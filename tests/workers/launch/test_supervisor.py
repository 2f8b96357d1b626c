"""The supervisor with real processes: small programs replace the stages and misbehave."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dni.errors import DniError, EndedEarly, WireError, WorkerLost
from tests.support.commands import alive
from tests.support.runs import tiny
from workers.launch import supervisor as processes
from workers.launch.launcher import launch
from workers.launch.supervisor import Supervisor, signal_name
from workers.runtime.job import Job
from workers.runtime.recorder import Record
from workers.runtime.worker import Worker
from workers.system import spawn
from workers.system.early_exit import no_early_exit
from workers.tracking.early_stopping import Stop

#: Replaces `workers.launch.stage_main`, without slow imports.
PROGRAM = """\
import sys
sys.path[:] = {path}
from workers.system.spawn import begin
begin({parent})
import os, socket, subprocess, threading
channel = socket.socket(fileno=int(sys.argv[-2]))
first = sys.argv[-1] == "0"

def say(line):
    channel.sendall(line + b"\\n")

def until_killed():
    while channel.recv(1):
        pass

DONE = b'{{"event": "done"}}'
"""

#: The program of a stage that runs until it is killed.
GOES_ON = """
while True:
    say(b'{"event": "record", "record": {"kind": "train", "step": 7}}')
"""

Play = Callable[..., Supervisor]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """A factory of supervisors of two stages with the given programs."""

    def make(first: str, second: str) -> Supervisor:
        parts = [part.replace("{", "{{").replace("}", "}}").strip() for part in (first, second)]
        both = "if first:\n{}\nelse:\n{}\n".format(*("\n".join("    " + x for x in p.splitlines()) for p in parts))
        monkeypatch.setattr(spawn, "PROGRAM", PROGRAM + both)
        monkeypatch.setattr(processes, "GRACE_S", 0.3)
        return Supervisor(Job(tiny(transport={"timeout_s": 0.5}), tmp_path, lambda record: None, Stop()))

    return make


def ended(supervisor: Supervisor, kind: type[DniError]) -> str:
    """Return the run's error message; check that no process is left."""
    with pytest.raises(kind) as caught:
        supervisor.run()
    assert type(caught.value) is kind
    assert not any(alive(child.process.pid) for child in supervisor.children)
    return str(caught.value)


def log_of(supervisor: Supervisor, stage: int) -> str:
    return supervisor.children[stage].log.read_text()


def test_printed_output_goes_to_the_log_in_order(play: Play) -> None:
    supervisor = play(
        """
print("one")
sys.stderr.write("two\\n")
subprocess.run(["/bin/sh", "-c", "echo three; echo four >&2"])
os.write(1, b"\\xff\\xfe five")
os.write(2, b"w" * 10**8)
print('{"event": "done"}', end="")
assert sys.stdin.read() == ""
say(DONE)
""",
        "say(DONE)",
    )
    supervisor.run()
    log = supervisor.children[0].log
    text = log.read_bytes()
    log.unlink()
    assert text == b"one\ntwo\nthree\nfour\n\xff\xfe five" + b"w" * 10**8 + b'{"event": "done"}'
    assert log_of(supervisor, 1) == ""


def test_stages_get_the_secret_in_the_environment_alone(play: Play) -> None:
    reports = """
import json
line = open("/proc/self/cmdline").read() if os.path.exists("/proc/self/cmdline") else " ".join(sys.argv)
record = {"kind": "train", "step": 1, "line": line, "secret": os.environ.get("DNI_RUN_SECRET")}
say(json.dumps({"event": "record", "record": record}).encode())
say(DONE)
"""
    supervisor, records = play(reports, reports), list[Record]()
    supervisor.job = replace(supervisor.job, sink=records.append, secret=b"the secret of this run")
    supervisor.run()
    assert [record["secret"] for record in records] == ["the secret of this run"] * 2
    assert not any("the secret" in record["line"] for record in records)
    assert "the secret" not in repr(supervisor.job)


def test_a_malformed_message_ends_the_run(play: Play) -> None:
    output = ended(play("say(b'hello')" + GOES_ON, GOES_ON), WireError)
    assert output.startswith("stage 0, after step 0: the control channel brought a line that is no message: b'hello")


@pytest.mark.parametrize("how", ["sys.exit(0)", "os._exit(0)"])
def test_a_stage_that_exits_early_with_status_0_is_the_cause(
    how: str, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, lost = (b'{"event": "record", "record": {"kind": "train", "step": 7}}',
                    b'{"event": "error", "type": "WorkerLost", "message": "a neighbour is gone"}')  # fmt: skip
    supervisor = play(f"say({lost!r}); sys.exit(1)", f"say({record!r}); print('bye'); {how}")
    monkeypatch.setattr(processes, "GRACE_S", 60.0)  # not reached: both end
    output = ended(supervisor, EndedEarly)
    log = supervisor.children[1].log
    why = f"its process ended with status 0 before its work was done; the end of its log {log}: bye; "
    assert output.startswith(f"stage 1, after step 7: {why}")


def test_a_stage_that_dies_at_its_start_is_quoted(play: Play, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "stage-1.log").write_text("of an earlier run\n")  # resumed in this folder
    supervisor = play("until_killed()", "\nprint('x' * 500)\nimport no_such_module")
    output = ended(supervisor, EndedEarly)
    end = output.partition(f"ended with status 1 before its work was done; the end of its log {tmp_path}")[2]
    assert end.startswith(f"/logs/stage-1.log: {'x' * 200} | Traceback (most recent call last): | File ")
    assert "| ModuleNotFoundError: No module named 'no_such_module'; no complete checkpoint" in end
    assert "earlier" not in output


def test_a_stage_that_dies_silently_is_named_with_its_log(play: Play) -> None:
    supervisor = play("until_killed()", "os._exit(3)")
    output = ended(supervisor, EndedEarly)
    log = supervisor.children[1].log
    assert output.startswith(
        f"stage 1, after step 0: its process ended with status 3 before its work was done; see its log {log};"
    )


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGRTMIN + 1, "signal 35")])
def test_a_signal_that_kills_a_stage_is_named(number: int, name: str, play: Play) -> None:
    output = ended(play("until_killed()", f"os.kill(os.getpid(), {int(number)})"), WorkerLost)
    assert output.startswith(f"stage 1, after step 0: its process was killed by {name}; ")
    assert signal_name(number) == name


@pytest.mark.parametrize(("last", "kind"), [("say(DONE)", None), ("os._exit(1)", EndedEarly)])
def test_a_child_that_outlives_its_stage_delays_nothing(last: str, kind: type[DniError] | None, play: Play) -> None:
    supervisor = play(
        f"""
os.set_inheritable(channel.fileno(), True)
print(subprocess.Popen(["sleep", "1000"], close_fds=False).pid, flush=True)
{last}
""",
        "say(DONE)",
    )
    try:
        if kind is None:
            supervisor.run()
        else:
            ended(supervisor, kind)
        pid = int(log_of(supervisor, 0))
        assert alive(pid)
    finally:
        os.kill(int(log_of(supervisor, 0)), signal.SIGKILL)


def test_a_finished_stage_that_does_not_exit_is_killed(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(processes, "LEAVE_S", 0.1)
    supervisor = play("say(DONE)\nthreading.Thread(target=until_killed).start()", "say(DONE)\nuntil_killed()")
    supervisor.run()
    assert caplog.messages == ["stage 0, 1 was done, but did not exit: killed"]


def test_one_stop_ends_a_run_whose_first_stage_is_stuck(play: Play) -> None:
    supervisor = play(f"os.kill(os.getpid(), {int(signal.SIGSTOP)})", GOES_ON)
    supervisor.job.stop.set()
    supervisor.wake()
    output = ended(supervisor, WorkerLost)
    assert output.startswith("stage 0, after step 0: it did not answer a stop within 0.5 s; its process is")


def test_a_stage_ignores_signals_of_a_terminal_or_an_engine(play: Play) -> None:
    supervisor = play("os.kill(os.getpid(), 2); os.kill(os.getpid(), 15); print('alive'); say(DONE)", "say(DONE)")
    supervisor.run()
    assert log_of(supervisor, 0) == "alive\n"
    assert [child.process.returncode for child in supervisor.children] == [0, 0]


def test_stages_have_the_import_path_and_flags_of_their_parent(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    odd = str(tmp_path / "a:b 'c' \n \udcff")
    monkeypatch.setattr(sys, "path", [odd, *sys.path])
    supervisor = play("print(ascii(sys.path), end='')\nsay(DONE)", "say(DONE)")
    supervisor.run()
    assert log_of(supervisor, 0) == ascii(sys.path)
    switches = {name: name in ("isolated", "no_user_site") for name in spawn.SWITCHES}
    monkeypatch.setattr(sys, "flags", type("Flags", (), switches))
    assert spawn.command("x")[1:5] == ["-u", "-I", "-s", "-c"]


def test_a_stage_in_a_thread_that_calls_exit_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "train", lambda self, frame: sys.exit(0))
    with pytest.raises(EndedEarly, match=r"^stage [01], step 1: it asked to exit with status 0 before its work"):
        launch(tiny(), tmp_path)
    with pytest.raises(EndedEarly, match="status 3"), no_early_exit():
        sys.exit(3)
