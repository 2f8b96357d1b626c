"""Start the process of a stage: its import path, its signals, and its end when the parent dies.

A stage has exactly the parent's `sys.path`, so it imports from the current folder only if the parent does. It also gets
the parent's switches `-I`, `-E`, `-s` and `-S`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from workers.system.signals import ENDING

_BEGIN = """\
import sys
sys.path[:] = {path}
from workers.system.spawn import begin
begin({parent})
from workers.system.imports import import_for_good
"""

#: Calls `begin` before it imports `workers.launch.stage_main`, which takes seconds: the parent may die meanwhile.
PROGRAM = (
    _BEGIN
    + """\
import_for_good("workers.launch.stage_main").main()
"""
)

#: As `PROGRAM`, but waits for its arguments once it has imported what it needs, also what a stage imports late.
WAITING = (
    _BEGIN
    + """\
main = import_for_good("torch._dynamo", "workers.launch.stage_main").main
from workers.system.forked import work_when_told
work_when_told(main, {channel})
"""
)

#: Switches that restrict imports, by their attribute of `sys.flags`.
SWITCHES = {"isolated": "-I", "ignore_environment": "-E", "no_user_site": "-s", "no_site": "-S"}

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def command(*arguments: str) -> list[str]:
    """Return the command line that runs `workers.launch.stage_main` with `arguments` and unbuffered output (`-u`)."""
    return [*_python(PROGRAM), *arguments]


def waiting_command(channel: int) -> list[str]:
    """Return the command line of a process that waits on a socket, its descriptor `channel`, for such arguments."""
    return _python(WAITING, channel=channel)


def _python(program: str, **values: int) -> list[str]:
    path = [entry for entry in sys.path if isinstance(entry, str)]
    switches = [switch for name, switch in SWITCHES.items() if getattr(sys.flags, name)]
    return [sys.executable, "-u", *switches, "-c", program.format(path=ascii(path), parent=os.getpid(), **values)]


def begin(parent: int) -> None:
    """Ignore the signals that end a run (the parent handles them), and do not outlive the parent.

    A stage ends when the parent's control channel closes. A stopped stage (SIGSTOP) cannot notice that, so on Linux the
    system sends it SIGCONT when the parent dies.
    """
    for number in ENDING:  # an engine may send them to every process of a job
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before prctl
            os._exit(1)
