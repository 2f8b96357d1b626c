"""A TCP proxy before every stage but the first, which cuts, stalls and changes the bytes of its connection."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
_CHUNK = 65536

Change = Callable[[bytes], tuple[bytes, bool]]  #: of the next bytes that pass; False: then the connection is reset


class Way(Enum):
    """Direction of bytes."""

    DOWN = "down"  #: to the next stage
    UP = "up"  #: to the previous stage


def address_of(text: str) -> tuple[str, int]:
    """Return host and port of "host:port"."""
    host, _, port = text.rpartition(":")
    return host, int(port)


class Proxy:
    """Forwards connections to one stage, which may move; faults act on the newest connection.

    All times are of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.target: tuple[str, int] | None = None  #: where the stage listens
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._lock = threading.Lock()
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._changes: dict[Way, Change] = {}
        self._flowing = threading.Event()
        self.opened: list[float] = []  #: when each connection was made
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Reset the newest connection."""
        for end in self._pair or ():
            _reset(end)

    def stall(self, seconds: float) -> None:
        """Forward nothing on the newest connection for some seconds; later connections work."""
        flowing = self._flowing
        flowing.clear()
        timer = threading.Timer(seconds, flowing.set)
        timer.daemon = True
        timer.start()

    def change(self, way: Way, change: Change) -> threading.Event:
        """Change the next bytes that go one way. The event is set once that is done."""
        done = threading.Event()

        def once(data: bytes) -> tuple[bytes, bool]:
            done.set()
            return change(data)

        with self._lock:
            self._changes[way] = once
        return done

    def close(self) -> None:
        """Stop listening, and reset the connection."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._flowing.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client = self._server.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection(self.target or ("127.0.0.1", 0))
            except OSError:  # the stage is gone: so is this connection
                _reset(client)
                continue
            flowing = threading.Event()
            flowing.set()
            self._flowing, self._pair = flowing, (client, server)
            self.opened.append(time.monotonic())
            for way, source, sink in ((Way.DOWN, client, server), (Way.UP, server, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._forward, args=(way, source, sink, flowing), daemon=True).start()

    def _forward(self, way: Way, source: socket.socket, sink: socket.socket, flowing: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                flowing.wait()
                with self._lock:
                    change = self._changes.pop(way, None)
                data, goes_on = (data, True) if change is None else change(data)
                sink.sendall(data)
                if not goes_on:
                    break
        _reset(source)
        _reset(sink)


class Switchboard:
    """The proxies of a run, by stage. The previous stage asks here where to connect (`benchmarks.chaos.transport`)."""

    def __init__(self, stages: int) -> None:
        self.proxies = {stage: Proxy() for stage in range(1, stages)}
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._answer, name="switchboard", daemon=True).start()

    def close(self) -> None:
        """Close all proxies."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for proxy in self.proxies.values():
            proxy.close()

    def _answer(self) -> None:
        while True:
            try:
                asking = self._server.accept()[0]
            except OSError:
                return
            with asking, suppress(OSError, ValueError), asking.makefile("rw") as file:
                question = json.loads(file.readline())
                proxy = self.proxies[question["stage"]]
                proxy.target = address_of(question["listens"])
                file.write(proxy.address + "\n")
                file.flush()


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RDWR)
    end.close()
