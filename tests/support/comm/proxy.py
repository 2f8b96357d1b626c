"""A TCP proxy between two stages that cuts or stalls their connection."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from enum import IntEnum

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class Way(IntEnum):
    """Direction of bytes."""

    DOWN = 0  #: to the next stage
    UP = 1  #: to the previous stage


class Proxy:
    """Forwards connections to `target` ("host:port"), with faults in the newest one."""

    def __init__(self, target: str) -> None:
        self.lead_to(target)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._lock = threading.Lock()
        self._left: dict[Way, int | None] = dict.fromkeys(Way)  # bytes until the connection is cut
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._flowing = threading.Event()
        self.opened = 0  #: number of connections
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, target: str) -> None:
        """Forward later connections to another target."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))

    def cut_after(self, way: Way, count: int) -> None:
        """Reset the connection once `count` further bytes have gone one way."""
        with self._lock:
            self._left[way] = count

    def cut(self) -> None:
        """Reset the connection at once."""
        for each in self._pair or ():
            _reset(each)

    def stall(self) -> threading.Event:
        """Forward nothing on this connection until the returned event is set; later connections work."""
        with self._lock:
            self._flowing.clear()
            return self._flowing

    def close(self) -> None:
        """Stop listening, and reset the connection."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                client = self._server.accept()[0]
                server = socket.create_connection(self._target)
            except OSError:
                return
            with self._lock:
                self._flowing = threading.Event()
                self._flowing.set()
            self._pair, self.opened = (client, server), self.opened + 1
            for way, (source, sink) in zip(Way, ((client, server), (server, client)), strict=True):
                threading.Thread(target=self._forward, args=(way, source, sink, self._flowing), daemon=True).start()

    def _forward(self, way: Way, source: socket.socket, sink: socket.socket, flowing: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                flowing.wait()
                passed = self._passed(way, len(data))
                sink.sendall(data[:passed])
                if passed < len(data):
                    break
        _reset(source)
        _reset(sink)

    def _passed(self, way: Way, count: int) -> int:
        """Return how many of `count` bytes may pass before the cut."""
        with self._lock:
            left = self._left[way]
            if left is None:
                return count
            passed = min(left, count)
            self._left[way] = None if passed < count else left - passed
            return passed


def _reset(link: socket.socket) -> None:
    with suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        link.shutdown(socket.SHUT_RDWR)
    link.close()
