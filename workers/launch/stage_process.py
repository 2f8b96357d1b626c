"""The process of one stage, as the supervisor sees it: start, read messages, send messages, end."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from workers.launch.rejoin.spare import Spare
from workers.system.background import background
from workers.system.channel import Channel, Message
from workers.system.forked import Forked, take
from workers.system.spawn import command

#: Lines of a log's end in a message, and characters of each.
LAST_LINES, LAST_CHARACTERS = 4, 200

_ABOVE_STANDARD = 3  # descriptors below are standard input, output and error
_TAIL_BYTES = 8192


class StageProcess:
    """A stage's process, with two threads: one reads its messages, one waits for its exit.

    The waiting thread also closes the channel for the reader: a child of the stage that outlives it may hold the
    channel open. Both threads call `receive` with every message; the last one is `exit`.
    """

    def __init__(
        self,
        index: int,
        log: Path,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        spare: Spare | None = None,
    ) -> None:
        """Take the spare process, or one that was forked ahead, or start one. Append its output to `log`.

        Call this in a thread that lives until the process has ended: the system treats the end of that thread as the
        end of the parent.
        """
        self.index, self.log = index, log
        mine, self._theirs = (_above_standard(end) for end in socket.socketpair())
        self._channel = Channel(mine)
        self._threads: list[threading.Thread] = []
        self.ended_at = 0.0  #: when the process has ended, by the monotonic clock
        with log.open("ab") as file:
            self._log_start = file.tell()
            self.process = _started(arguments, self._theirs.fileno(), index, file.fileno(), environment, spare)

    def follow(self, receive: Callable[[int, Message], None]) -> None:
        """Pass every message of the process to `receive`."""

        def died(error: Exception) -> None:
            receive(self.index, {"event": "error", "type": type(error).__name__, "message": str(error)})

        def read() -> None:
            for message in self._channel.messages():
                receive(self.index, message)
            receive(self.index, {"event": "exit", "code": self.process.wait()})

        for name, work in (("wait", self._wait), ("read", read)):
            thread = background(f"{name}-{self.index}", work, died)
            thread.start()
            self._threads.append(thread)

    def send(self, **message: object) -> None:
        """Send the process one message. Raises OSError if it is gone."""
        self._channel.say(**message)

    def end(self) -> None:
        """Kill the process if it still runs, wait until it has exited, and free its threads and channel."""
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def last_output(self) -> str:
        """Return the last lines of this process's output, joined into one line; "" if there are none."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        lines = [" ".join(line.split()) for line in text.splitlines()]
        return " | ".join([line[:LAST_CHARACTERS] for line in lines if line][-LAST_LINES:])

    def _wait(self) -> None:
        self.process.wait()
        self.ended_at = time.monotonic()
        self._theirs.shutdown(socket.SHUT_RDWR)  # also closes inherited copies; unread messages stay readable
        self._theirs.close()


def _started(
    arguments: tuple[str, ...], channel: int, index: int, output: int, environment: dict[str, str], spare: Spare | None
) -> subprocess.Popen[bytes] | Forked | Spare:
    ahead = spare or take()
    if ahead is not None:
        ahead.start(arguments, channel, index, output, environment)
        return ahead
    return subprocess.Popen(
        command(*arguments, str(channel), str(index)),
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, pass_fds=(channel,),
        start_new_session=True,  # Ctrl-C reaches the supervisor alone
    )  # fmt: skip


def _above_standard(end: socket.socket) -> socket.socket:
    """Duplicate `end` to a descriptor above the standard streams, which may be closed (`dni-train <&-`)."""
    if end.fileno() >= _ABOVE_STANDARD:
        return end
    with end:
        return socket.socket(fileno=fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, _ABOVE_STANDARD))
