"""How the process of a stage begins: what it may import, which signals it hears, and that it ends with its parent.

A stage imports along the parent's `sys.path`, and nothing else: whatever lies in the folder where the user stands is
not on it unless it was for the parent. The parent's switches for this (`-I`, `-E`, `-s`, `-S`) hold as well.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from workers.system.signals import ENDING

#: First the import path, then the parent: `workers.launch.stage_main` takes seconds to import.
PROGRAM = """\
import sys
sys.path[:] = {path}
from workers.system.spawn import begin
begin({parent})
from workers.launch.stage_main import main
main()
"""

#: What Python says of a switch that restricts imports, and the switch.
SWITCHES = {"isolated": "-I", "ignore_environment": "-E", "no_user_site": "-s", "no_site": "-S"}

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def command(*arguments: str) -> list[str]:
    """The words that start `workers.launch.stage_main` with these arguments; what it prints is not held back (`-u`)."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    switches = [switch for name, switch in SWITCHES.items() if getattr(sys.flags, name)]
    program = PROGRAM.format(path=ascii(path), parent=os.getpid())
    return [sys.executable, "-u", *switches, "-c", program, *arguments]


def begin(parent: int) -> None:
    """Leave signals to the parent, and do not outlive it.

    The end of the control channel tells a stage that its parent is gone, and the stage then cleans up and ends. One
    that is stopped (SIGSTOP) cannot notice: where the system can, it continues it when the parent dies.
    """
    for number in ENDING:  # an engine may send them to all processes of a job
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be asked for
            os._exit(1)
