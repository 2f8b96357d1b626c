"""The two ends of a simulated gRPC call, which behave as those of the library `grpc` do.

Orders and words are those of grpc's Python code: a client learns a status only after the messages before it, a server's
requests end in the same way for a finished and for a cut call (or raise an error without a reason), and a cancelled
call forgets what has arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from tests.support.simulated.network import Connection, Network
from tests.support.simulated.scheduler import Process, Waiters

_OK = (grpc.StatusCode.OK, "")
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)

Status = tuple[grpc.StatusCode, str]


class _End:
    """What both ends have: received messages, a status once the call is over, and callbacks for that."""

    def __init__(self, network: Network, process: Process) -> None:
        self.network, self.process = network, process
        self.connection: Connection | None = None
        self.status: Status | None = None
        self._received: deque[bytes] = deque()
        self._changed = Waiters(network.scheduler)
        self._callbacks: list[Callable[[], None]] = []

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` when the call is over; return False if it is."""
        if self.status is not None:
            return False
        self._callbacks.append(callback)
        return True

    def _end(self, status: Status) -> None:
        if self.status is not None:
            return
        self.status = status
        if self.process.alive:
            for callback in self._callbacks:
                callback()
        self._changed.wake_all()

    def _take(self, message: bytes) -> None:
        self._received.append(message)
        self._changed.wake_all()

    def _maybe_forget(self) -> None:
        """Lose what has arrived and was not read, or not: the library may do either when a connection breaks."""
        if self.network.scheduler.random.random() < 0.5:
            self._received.clear()


class ClientCall(_End, grpc.RpcError, grpc.Call):
    """The call as its client has it: an iterator of the server's messages."""

    def __init__(self, network: Network, process: Process, address: str, outgoing: Iterator[bytes]) -> None:
        super().__init__(network, process)
        self._address, self._outgoing = address, outgoing
        network.scheduler.spawn("grpc-consumer", self._consume, process).start()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._received and self.status is None:
            self._changed.wait()
        if self._received:
            return self._received.popleft()
        if self.status == _OK:
            raise StopIteration
        raise self

    def cancel(self) -> bool:
        if self.status is None:
            self._received.clear()
            if self.connection is not None:
                self.connection.down.put(("cancel",))
            self._end((grpc.StatusCode.CANCELLED, "Locally cancelled by application!"))
        return True

    def code(self) -> grpc.StatusCode | None:
        return self.status and self.status[0]

    def details(self) -> str | None:
        return self.status and self.status[1]

    def arrived(self, item: Any) -> None:
        if self.status is None:
            if item[0] == "message":
                self._take(item[1])
            else:
                self._end(item[1])

    def lost(self) -> None:
        if self.status is None:
            self._maybe_forget()
            self._end((self.network.scheduler.random.choice(_LOST), "Socket closed"))

    def _consume(self) -> None:
        """Send the messages; the first is taken before there is a connection."""
        for message in self._outgoing:
            if self.connection is None:
                self._connect()
            if self.connection is not None:
                self.connection.down.wait_for_room()
            if self.status is not None or self.connection is None:
                return
            self.connection.down.message(message)
        if self.connection is not None and self.status is None:
            self.connection.down.put(("finish",))

    def _connect(self) -> None:
        scheduler, weather = self.network.scheduler, self.network.weather
        while self.status is None:
            scheduler.sleep(scheduler.random.uniform(0, weather.connect_s))
            if self.status is None and self.network.reaches(self._address):
                self.connection = self.network.connect(self._address, self)
                return

    def initial_metadata(self) -> None: ...
    def trailing_metadata(self) -> None: ...
    def is_active(self) -> bool:
        return self.status is None

    def time_remaining(self) -> None: ...


class _Aborted(Exception):
    pass


class ServerCall(_End, grpc.ServicerContext):
    """The call as its server has it: the context, and an iterator of the client's messages."""

    def __init__(self, network: Network, process: Process, behaviour: Callable[..., Iterator[bytes]]) -> None:
        super().__init__(network, process)
        self._behaviour, self._abort_status = behaviour, _OK
        self._no_more = self._cancelled = False
        network.scheduler.spawn("grpc-handler", self._serve, process).start()

    def requests(self) -> Iterator[bytes]:
        while True:
            while not (self._received or self._no_more or self.status is not None):
                self._changed.wait()
            if self._cancelled:
                raise grpc.RpcError
            if not self._received or self.status is not None:
                return
            yield self._received.popleft()

    def cancel(self) -> bool:
        if self.status is None:
            self._answer((grpc.StatusCode.CANCELLED, "Cancelled on the server side"))
            self._cancelled = True
            self._end((grpc.StatusCode.CANCELLED, ""))
        return True

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self._abort_status = (code, details)
        raise _Aborted

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def arrived(self, item: Any) -> None:
        if self.status is not None:
            return
        if item[0] == "message":
            self._take(item[1])
        elif item[0] == "finish":
            self._no_more = True
            self._changed.wake_all()
        else:
            self.lost()

    def lost(self) -> None:
        if self.status is None:
            self._maybe_forget()
            self._cancelled = self.network.scheduler.random.random() < 0.5  # otherwise as the end of a finished call
            self._no_more = True
            self._end((grpc.StatusCode.CANCELLED, ""))

    def _serve(self) -> None:
        assert self.connection is not None
        try:
            for message in self._behaviour(self.requests(), self):
                self.connection.up.wait_for_room()
                if self.status is not None:
                    return
                self.connection.up.message(message)
            status = _OK
        except _Aborted:
            status = self._abort_status
        except Exception as error:
            status = (grpc.StatusCode.UNKNOWN, f"Exception iterating responses: {error}")
        if self.status is None:
            self._answer(status)
            self._end(status)

    def _answer(self, status: Status) -> None:
        assert self.connection is not None
        self.connection.up.put(("status", status))

    def invocation_metadata(self) -> None: ...
    def peer_identities(self) -> None: ...
    def peer_identity_key(self) -> None: ...
    def auth_context(self) -> None: ...
    def send_initial_metadata(self, metadata: object) -> None: ...
    def set_trailing_metadata(self, metadata: object) -> None: ...
    def set_code(self, code: object) -> None: ...
    def set_details(self, details: object) -> None: ...
    def abort_with_status(self, status: object) -> None: ...
    def is_active(self) -> bool:
        return self.status is None

    def time_remaining(self) -> None: ...
