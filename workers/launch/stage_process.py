"""The process of one stage, as the supervisor has it: started, heard, told, ended."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from workers.system.background import background
from workers.system.channel import Channel, Message
from workers.system.spawn import command

#: How much of a log's end goes into a message.
LAST_LINES, LAST_CHARACTERS = 4, 200

_ABOVE_STANDARD = 3  # a descriptor below would be taken for standard input, output or errors
_TAIL_BYTES = 8192


class StageProcess:
    """Two threads follow the process: one reads what it says, one waits for its end.

    The second one also ends the channel for the first: a process that the stage has started itself, and that outlives
    it, may hold the channel open. `hear` gets every message, in these threads, the last one being `exit`.
    """

    def __init__(self, index: int, log: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        """Start it. All that it prints is appended to `log`, in the order printed.

        Start it from a thread that stays until the process has ended: the system takes the end of that thread for the
        end of the parent.
        """
        self.index, self.log = index, log
        mine, self._theirs = (_above_standard(end) for end in socket.socketpair())
        self._channel = Channel(mine)
        self._threads: list[threading.Thread] = []
        with log.open("ab") as file:
            self._log_start = file.tell()
            self.process = subprocess.Popen(
                command(*arguments, str(self._theirs.fileno()), str(index)),
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment,
                pass_fds=(self._theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone
            )  # fmt: skip

    def follow(self, hear: Callable[[int, Message], None]) -> None:
        """Begin to pass on what it says."""

        def died(error: Exception) -> None:
            hear(self.index, {"event": "error", "type": type(error).__name__, "message": str(error)})

        def read() -> None:
            for message in self._channel.messages():
                hear(self.index, message)
            hear(self.index, {"event": "exit", "code": self.process.wait()})

        for name, work in (("wait", self._wait), ("read", read)):
            thread = background(f"{name}-{self.index}", work, died)
            thread.start()
            self._threads.append(thread)

    def tell(self, **message: object) -> None:
        """Send it one message. Raises OSError if it is gone."""
        self._channel.say(**message)

    def end(self) -> None:
        """Kill it if it still runs, wait until it has ended, and let go of what belonged to it."""
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def last_words(self) -> str:
        """The last lines of what this process has printed, in one line; "" if it has printed nothing."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        lines = [" ".join(line.split()) for line in text.splitlines()]
        return " | ".join([line[:LAST_CHARACTERS] for line in lines if line][-LAST_LINES:])

    def _wait(self) -> None:
        self.process.wait()
        self._theirs.shutdown(socket.SHUT_RDWR)  # also what copies of it there are; what was said can still be read
        self._theirs.close()


def _above_standard(end: socket.socket) -> socket.socket:
    """The same end at a descriptor that no standard stream has; they may be closed (`dni-train <&-`)."""
    if end.fileno() >= _ABOVE_STANDARD:
        return end
    with end:
        return socket.socket(fileno=fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, _ABOVE_STANDARD))
