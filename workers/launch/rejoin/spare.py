"""A process that has imported torch and waits: it takes the place of a lost stage in a fraction of a start's time."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping

from workers.system.forked import Waiting
from workers.system.spawn import waiting_command


class Spare(Waiting):
    """A waiting process. It ends if its parent ends before it has work.

    `pid`, `returncode`, `wait` and `kill` are those of `subprocess.Popen`. Make it in a thread that lives until the
    process has ended (see `StageProcess`).
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._mine, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                waiting_command(theirs.fileno()), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=dict(environment), pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone
            )  # fmt: skip
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; None while the process runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait until the process has ended; return its exit status, -N after signal N."""
        return self._process.wait()

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        self._process.kill()

    def close(self) -> None:
        """End a process that has had no work."""
        self._mine.close()
        self.kill()
        self.wait()
