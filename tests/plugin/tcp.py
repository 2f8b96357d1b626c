"""A custom transport: frames over plain TCP, each after its length in eight bytes."""

from __future__ import annotations

import queue
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from dni.errors import ConfigError, HandshakeRefused, PeerTimeout, WireError, WorkerLost
from workers.comm.address import check_address
from workers.comm.codec import decode, encode
from workers.comm.frame import Frame, Handshake, Kind, agree
from workers.comm.transports.base import ChannelEnd, LinkContext, Listener, Transport
from workers.comm.transports.process_link import Accepting, LinkEnd, LinkSettings, ProcessTransport
from workers.system.background import background

REFUSED = b"refused:"


@dataclass
class Tcp(ProcessTransport):
    """One plaintext TCP connection per edge."""

    no_delay: bool = True  # send small frames at once, instead of together with the next one

    def listen(self, bind: str, context: LinkContext) -> Listener:
        return TcpListener(self, bind, context)

    def connect(self, address: str, context: LinkContext) -> ChannelEnd:
        host, mine = check_address(address, self.private).strip("[]"), context.handshake
        peer = f"stage {mine.stage + 1} at {address}"
        try:
            connection = connect(host, int(address.rpartition(":")[2]), self.timeout_s)
            send_message(connection, encode_handshake(mine))
            answer = receive_message(connection, self.max_frame_mb << 20)
        except TimeoutError:
            raise PeerTimeout(f"stage {mine.stage}: no answer from {peer} within {self.timeout_s:g} s") from None
        except OSError as error:
            raise WorkerLost(f"{peer} is gone ({error})") from error
        if answer.startswith(REFUSED):
            connection.close()
            raise HandshakeRefused(answer.removeprefix(REFUSED).decode())
        agree(client=mine, server=decode_handshake(answer))
        return self.end(connection, peer, context)

    def end(self, connection: socket.socket, peer: str, context: LinkContext) -> ChannelEnd:
        """Return the end of a link after a successful handshake."""
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self.no_delay)
        return TcpEnd(connection, peer, self.link_settings(context))


class TcpEnd(LinkEnd):
    """One end of a connection, with a reading and a writing thread."""

    def __init__(self, connection: socket.socket, peer: str, settings: LinkSettings) -> None:
        super().__init__(peer, settings, None)
        self._connection = connection
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None: nothing follows
        self._threads = [background(f"tcp-{work.__name__}", work, self._lose) for work in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def send(self, frame: Frame) -> None:
        self._check_open(frame)
        data = encode(frame, checksum=self._settings.checksum)
        self._check_size(frame, len(data))
        if self._outgoing.qsize() >= self._settings.limit:
            raise self._crowded(frame)
        self._outgoing.put(data)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._outgoing.put(None)
        for thread in self._threads:  # the peer closes its side when it has read all frames
            thread.join(self._settings.timeout_s)
        self._lose(ConnectionError("closed"))
        self._connection.close()

    def _write(self) -> None:
        for data in iter(self._outgoing.get, None):
            send_message(self._connection, data)
        self._connection.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        while data := receive_message(self._connection, self._settings.max_frame):
            self._inbox.put(self._decoded(data))
        self._inbox.fail(WorkerLost(f"{self._inbox.peer} ended the link or is gone"))
        self._outgoing.put(None)

    def _decoded(self, data: bytes) -> Frame | WireError:
        try:
            return decode(data, limit=self._settings.max_frame)
        except WireError as error:
            return type(error)(f"malformed frame from {self._inbox.peer}: {error}")

    def _lose(self, error: Exception) -> None:
        lost = isinstance(error, OSError)
        self._inbox.fail(WorkerLost(f"{self._inbox.peer} is gone ({error})") if lost else error)
        self._outgoing.put(None)
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class TcpListener(Accepting):
    """Accept the previous stage. Each client has a thread until its handshake is done."""

    def __init__(self, transport: Tcp, bind: str, context: LinkContext) -> None:
        super().__init__(context.handshake)
        host, port = check_address(bind, transport.private), int(bind.rpartition(":")[2])
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server((host.strip("[]"), port), family=family)
        except OSError:
            raise ConfigError(f"stage {context.handshake.stage}: cannot listen at {bind}; choose a free port") from None
        self.address = f"{host}:{self._listening.getsockname()[1]}"
        self._transport, self._context, self._closed = transport, context, False
        self._ends: list[ChannelEnd] = []
        self._thread = background("tcp-listener", self._listen, self.died)
        self._thread.start()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        for end in self._ends:
            end.close()
        self._accepted.put(WorkerLost(f"the listener at {self.address} is closed"))

    def _listen(self) -> None:
        while True:
            try:
                connection, address = self._listening.accept()
            except OSError:
                return  # closed
            background("tcp-client", partial(self._serve, connection, f"{address[0]}:{address[1]}"), self.died).start()

    def _serve(self, connection: socket.socket, where: str) -> None:
        try:
            connection.settimeout(self._transport.timeout_s)
            theirs = decode_handshake(receive_message(connection, self._transport.max_frame_mb << 20))
            agree(client=theirs, server=self._handshake)
            send_message(connection, encode_handshake(self._handshake))
        except (WireError, OSError) as error:
            with suppress(OSError):
                send_message(connection, REFUSED + str(error).encode())
            connection.close()
            if isinstance(error, HandshakeRefused):
                self._accepted.put(error)
            return
        end = self._transport.end(connection, f"stage {theirs.stage} at {where}", self._context)
        self._ends.append(end)
        self._accepted.put(end)


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """Connect to a port, and retry until the server listens. Raise TimeoutError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        with suppress(OSError):
            return socket.create_connection((host, port), left)
        time.sleep(min(0.05, left))
    raise TimeoutError


def send_message(connection: socket.socket, data: bytes) -> None:
    connection.sendall(len(data).to_bytes(8, "big") + data)


def receive_message(connection: socket.socket, most: int) -> bytes:
    """Return the next message; empty if the peer has closed. Raise WireError for more than `most` bytes."""
    length = int.from_bytes(receive_exactly(connection, 8), "big")
    if length > most:
        raise WireError(f"a message of {length} bytes; the limit is {most}")
    return receive_exactly(connection, length)


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """Return `count` bytes; empty if the peer has closed. Raise ConnectionError if it closes in between."""
    data = bytearray(count)
    view, filled = memoryview(data), 0
    while filled < count and (got := connection.recv_into(view[filled:])):
        filled += got
    if 0 < filled < count:
        raise ConnectionError("the connection ended within a frame")
    return bytes(data[:filled])


def encode_handshake(mine: Handshake) -> bytes:
    return encode(Frame(Kind.HANDSHAKE, stage=mine.stage, handshake=mine))


def decode_handshake(data: bytes) -> Handshake:
    frame = decode(data)
    if frame.handshake is None:
        raise HandshakeRefused(f"the peer began with a {frame.kind.name} frame instead of a handshake")
    return frame.handshake


class Unmarked(Tcp):
    """A class without @dataclass."""


@dataclass
class Unfinished(Transport):
    """A class without `connect`."""

    def listen(self, bind: str, context: LinkContext) -> Listener:
        return TcpListener(Tcp(), bind, context)
