"""Processes that are forked before their work is known. Each test forks in a small process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.commands import alive, wait_for

ROOT = Path(__file__).parents[3]

START = """\
import json, os, signal, socket, sys
sys.path.insert(0, sys.argv[1])
from workers.system.forked import fork_ahead, take

def program():
    channel = socket.socket(fileno=int(sys.argv[-2]))
    told = {"arguments": sys.argv[1:-2], "index": sys.argv[-1], "environment": dict(os.environ), "in": sys.stdin.read(),
            "session": os.getsid(0) == os.getpid()}
    channel.sendall(json.dumps(told).encode())
    print("printed")
    sys.stderr.write("an error\\n")
    os.write(1, b"written\\n")
    if sys.argv[1] == "waits":
        channel.recv(1)
    sys.exit(int(sys.argv[1]))

def start(argument, index):
    mine, theirs = socket.socketpair()
    log = open(f"log-{index}", "ab")
    found = take()
    found.start([argument, "more"], theirs.fileno(), index, log.fileno(), {"ONLY": "this"})
    theirs.close()
    return found, mine
"""


def answer(folder: Path, program: str) -> Any:
    """Run a program after START; return what it prints, from JSON."""
    command = [sys.executable, "-c", START + program, str(ROOT)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_gets_arguments_environment_and_output_when_it_is_started(tmp_path: Path) -> None:
    told = answer(
        tmp_path,
        """
print("", end="")
fork_ahead(program, 2)
first, channel = start("7", 0)
second, other = start("0", 1)
told = json.loads(channel.makefile().read())
print(json.dumps([told, first.wait(), second.wait(), take() is None]))
""",
    )
    assert told == [
        {"arguments": ["7", "more"], "index": "0", "environment": {"ONLY": "this"}, "in": "", "session": True},
        7, 0, True,
    ]  # fmt: skip
    assert (tmp_path / "log-0").read_text() == "printed\nan error\nwritten\n"


def test_a_killed_process_has_the_status_of_its_signal_and_the_other_goes_on(tmp_path: Path) -> None:
    statuses = answer(
        tmp_path,
        """
fork_ahead(program, 2)
first, channel = start("waits", 0)
second, other = start("0", 1)
channel.recv(10**6)
first.kill()
print(json.dumps([first.wait(), first.wait(), second.wait()]))
""",
    )
    assert statuses == [-9, -9, 0]


def test_a_process_without_work_ends_when_its_parent_does_also_when_killed(tmp_path: Path) -> None:
    for end in ("", "os.kill(os.getpid(), signal.SIGKILL)"):
        program = f"\nfork_ahead(program, 2)\nprint(json.dumps([take().pid, take().pid]), flush=True)\n{end}"
        command = [sys.executable, "-c", START + program, str(ROOT)]
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=30, check=False)
        for pid in json.loads(done.stdout):
            wait_for(lambda pid=pid: not alive(pid), f"the end of {pid}", within=20)  # type: ignore[misc]


def test_what_the_parent_has_printed_is_not_printed_twice(tmp_path: Path) -> None:
    program = "\nprint('once')\nfork_ahead(program, 1)\nfound, channel = start('0', 0)\nfound.wait()"
    command = [sys.executable, "-c", START + program, str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("once\n", "")
