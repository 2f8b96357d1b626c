"""The control channel between the supervisor and the process of a stage: a socket pair, in JSON lines.

It has its own file descriptor, so the output of workers and libraries cannot get into it. The reader raises WireError
for a line that is not a message; it never skips one.
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

#: Longest line in bytes. The longest message, an error with its text, is far shorter.
LONGEST_LINE = 2**20

_SHOWN = 60  # bytes of a bad line in the error message


class Channel:
    """One end of the channel. Any thread may send; one thread reads."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._incoming = end.makefile("rb")
        self._sending = threading.Lock()

    @classmethod
    def inherited(cls, descriptor: int) -> Channel:
        """Return the end that this process inherited. Its own child processes do not inherit it."""
        end = socket.socket(fileno=descriptor)
        end.set_inheritable(False)
        return cls(end)

    def say(self, **message: Any) -> None:
        """Send one message. Raises OSError if the other end is closed."""
        line = json.dumps(message).encode() + b"\n"
        with self._sending:
            self._end.sendall(line)

    def messages(self) -> Iterator[Message]:
        """Yield received messages until the other end closes. Raises WireError for a line that is not a message."""
        with suppress(ConnectionError):  # the other end closed with unread data
            while (line := self._incoming.readline(LONGEST_LINE)).endswith(b"\n"):
                yield _parse(line)
            if len(line) == LONGEST_LINE:
                raise WireError(f"the control channel brought a line of more than {LONGEST_LINE} bytes")
        # ignore an incomplete last line: the process was killed while it wrote

    def close(self) -> None:
        """Close this end."""
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
