"""Processes that are forked before their work is known, from a process that has imported all that they need.

Fork them while the parent has one thread, no link and no CUDA context: gRPC and CUDA do not survive a fork.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from workers.system.spawn import begin

#: A program: reads its arguments from `sys.argv`, and may leave by SystemExit.
Program = Callable[[], object]

_ahead: list[Forked] = []


class Waiting:
    """A process that waits for its arguments at the other end of the socket `_mine`."""

    _mine: socket.socket

    def start(
        self, arguments: Sequence[str], channel: int, index: int, output: int, environment: Mapping[str, str]
    ) -> None:
        """Give the program its arguments: `arguments`, the number of its copy of the descriptor `channel`, and `index`.

        All it prints goes to the descriptor `output`. Raises OSError if the process is gone.
        """
        told = {"arguments": list(arguments), "index": index, "environment": dict(environment)}
        with self._mine:
            socket.send_fds(self._mine, [b"\n"], [channel, output])
            self._mine.sendall(json.dumps(told).encode())


class Forked(Waiting):
    """A process that waits for its arguments, and ends if its parent ends before.

    `pid`, `returncode`, `wait` and `kill` are those of `subprocess.Popen`. Any thread may call them.
    """

    def __init__(self, program: Program) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else the child would write the same text again
        self._mine, theirs = socket.socketpair()
        self.returncode: int | None = None
        self._reaping = threading.Lock()
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            _become(program, parent, theirs, [self._mine, *(other._mine for other in _ahead)])
        theirs.close()

    def wait(self) -> int:
        """Wait until the process has ended; return its exit status, -N after signal N."""
        with self._reaping:
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def work_when_told(program: Program, channel: int) -> NoReturn:
    """Wait on the socket with the descriptor `channel` for the arguments of `Waiting.start`, and run the program."""
    _work(program, socket.socket(fileno=channel))


def fork_ahead(program: Program, count: int) -> None:
    """Fork processes that `take` will hand out."""
    for _ in range(count):
        _ahead.append(Forked(program))


def take() -> Forked | None:
    """Return a process that was forked ahead and has no work yet; None if there is none left."""
    return _ahead.pop(0) if _ahead else None


def _become(program: Program, parent: int, theirs: socket.socket, others: list[socket.socket]) -> NoReturn:
    """Wait for the arguments, and run the program. The parent's exit handlers do not run in this process."""
    for end in others:
        end.close()
    os.setsid()  # Ctrl-C reaches the parent alone
    begin(parent)
    _work(program, theirs)


def _work(program: Program, theirs: socket.socket) -> NoReturn:
    status = 1
    try:
        if _told(theirs):
            status = _run(program)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _told(theirs: socket.socket) -> bool:
    """Take arguments, environment and descriptors from the parent; return whether any came."""
    with theirs:
        first, descriptors, *_ = socket.recv_fds(theirs, 1, 2)
        if not first:
            return False
        told = json.loads(theirs.makefile("rb").read())
    channel, output = descriptors
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    for descriptor in (nothing, output):
        os.close(descriptor)
    sys.stdout, sys.stderr = _unbuffered(1), _unbuffered(2)
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv[:] = ["", *told["arguments"], str(channel), str(told["index"])]
    return True


def _run(program: Program) -> int:
    """Return the exit status of the program, as Python's own interpreter would."""
    try:
        program()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return int(ended.code or 0)
        sys.stderr.write(f"{ended.code}\n")
        return 1
    finally:
        logging.shutdown()
    return 0


def _unbuffered(descriptor: int) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "wb", closefd=False)
    return io.TextIOWrapper(raw, errors="backslashreplace", write_through=True)
