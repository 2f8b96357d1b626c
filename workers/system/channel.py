"""The control channel between the supervisor and the process of a stage: a socket pair, in JSON lines.

It has a descriptor of its own, so nothing that a worker or a library prints can get into it. A line that is no message
all the same is an error for whoever reads it, never something to pass over.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from dni.errors import WireError

Message = dict[str, Any]

#: Bytes of a line; the longest message, an error with its text, is far shorter.
LONGEST_LINE = 2**20

_SHOWN = 60  # bytes of a bad line


class Channel:
    """One end. Any thread may speak; one listens."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._incoming = end.makefile("rb")
        self._speaking = threading.Lock()

    @classmethod
    def inherited(cls, descriptor: int) -> Channel:
        """The end that this process was started with. Processes that it starts itself do not get it."""
        end = socket.socket(fileno=descriptor)
        end.set_inheritable(False)
        return cls(end)

    def say(self, **message: Any) -> None:
        """Send one message. Raises OSError if nobody is there to read it."""
        line = json.dumps(message).encode() + b"\n"
        with self._speaking:
            self._end.sendall(line)

    def messages(self) -> Iterator[Message]:
        """What the other side says, until it is gone. Raises WireError for a line that is no message."""
        with suppress(ConnectionError):  # gone with something unread
            while (line := self._incoming.readline(LONGEST_LINE)).endswith(b"\n"):
                yield _parse(line)
            if len(line) == LONGEST_LINE:
                raise WireError(f"the control channel brought a line of more than {LONGEST_LINE} bytes")
        # what is left is half a line, of a process that was killed while it wrote

    def close(self) -> None:
        """Let go of this end."""
        self._incoming.close()
        self._end.close()


def _parse(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except ValueError:  # not JSON, or not UTF-8
        message = None
    if not isinstance(message, dict):
        raise WireError(f"the control channel brought a line that is no message: {line[:_SHOWN]!r}")
    return message
