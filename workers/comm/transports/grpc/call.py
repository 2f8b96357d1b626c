"""One gRPC call of a link: a thread that receives, and a queue of messages to send."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import grpc

from dni.errors import DniError, HandshakeRefused, WireError, WorkerLost
from workers.comm.frame import Frame, Handshake
from workers.comm.transports.inbox import Inbox
from workers.comm.transports.secret import VARIABLE
from workers.system.background import as_thread_error, background

#: Status codes of a call whose connection broke. Others, as RESOURCE_EXHAUSTED, would come again in the next call.
_BROKEN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}

#: Status codes with which a listener puts off a call.
_BUSY = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}


class Message:
    """An encoded frame, or one that is encoded when it is first sent."""

    def __init__(self, data: bytes | Callable[[], bytes]) -> None:
        self._data = data

    def data(self) -> bytes:
        """Return the bytes to send."""
        if not isinstance(self._data, bytes):
            self._data = self._data()
        return self._data


class Owner(Protocol):
    """What a call delivers to; its methods run in the call's thread."""

    def received(self, data: bytes) -> None:
        """Take a message that follows the handshake."""

    def call_ended(self, error: Exception | None) -> None:
        """Note that nothing more comes: the peer ended its half (None), or the call broke."""


class Call:
    """One gRPC call, from the handshake to its end. A link that is made anew has several, one after the other."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()  # None: end of this half
        self._greeting = Inbox(2, peer=peer)
        self._owner: queue.SimpleQueue[Owner | None] = queue.SimpleQueue()  # None: the call was dismissed
        self._failure: Exception | None = None  # an error of this end's threads
        self.is_busy = False  #: the listener had no room or no patience for this call
        self.is_cut = False  #: the connection of this call broke
        self.over = threading.Event()  #: gRPC has ended the call

    def start(self, rpc: Any, incoming: Iterator[bytes], decode: Callable[[bytes], Frame | WireError]) -> None:
        """Start the thread that reads `incoming`; `decode` is for the first message."""
        self._rpc = rpc
        if not rpc.add_callback(self.over.set):
            self.over.set()
        self._reader = background("dni-reader", partial(self._read, incoming, decode), self._fail)
        self._reader.start()

    def outgoing(self) -> Iterator[bytes]:
        """Yield the messages to send, until `finish` or until the call is broken."""
        try:
            while (message := self._outgoing.get()) is not None:
                yield message.data()
        except Exception as error:  # runs in a thread of gRPC, which would only log it
            self._fail(as_thread_error("dni-sender", error))
            raise

    def greeting(self, timeout: float) -> Handshake:
        """Wait for the peer's handshake. Raises HandshakeRefused for any other frame, PeerTimeout after `timeout`."""
        frame = self._greeting.take(timeout)
        if frame.handshake is None:
            raise HandshakeRefused(f"{self._peer} began with a {frame.kind.name} frame, not with a handshake")
        return frame.handshake

    def deliver_to(self, owner: Owner) -> None:
        """Deliver the messages after the handshake, and the end of the call."""
        self._owner.put(owner)

    def put(self, message: Message) -> None:
        """Queue a message."""
        self._outgoing.put(message)

    def waiting(self) -> int:
        """Return the number of messages that gRPC has not taken."""
        return self._outgoing.qsize()

    def finish(self) -> None:
        """End this half of the call after the queued messages."""
        self._outgoing.put(None)

    def dismiss(self) -> None:
        """End the thread of a call that nobody owns."""
        self._owner.put(None)

    def cancel(self) -> None:
        """End the call at once."""
        self._rpc.cancel()
        self.dismiss()
        self.finish()

    def join(self, timeout: float) -> None:
        """Wait until the call's thread has ended."""
        if self._reader is not threading.current_thread():
            self._reader.join(timeout)

    def _read(self, incoming: Iterator[bytes], decode: Callable[[bytes], Frame | WireError]) -> None:
        owner: Owner | None = None
        error: Exception | None = None
        try:
            first = next(incoming, None)
            if first is not None:
                self._greeting.put(decode(first))
                owner = self._owner.get()
            if owner is not None:
                _deliver(incoming, owner)
        except grpc.RpcError as broken:
            error = self._failure or broken
        except DniError as refused:
            error = refused
            self._rpc.cancel()
        except BaseException as bug:
            error = as_thread_error("dni-reader", bug)
            self._rpc.cancel()
        self.is_busy = isinstance(error, grpc.Call) and error.code() in _BUSY
        self.is_cut = error is not None and is_broken(error)
        self._greeting.fail(explain(self._peer, error))
        self.finish()
        if owner is not None:
            owner.call_ended(error)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._greeting.fail(error)
        self._rpc.cancel()


def _deliver(incoming: Iterator[bytes], owner: Owner) -> None:
    for data in incoming:
        owner.received(data)


def is_broken(error: Exception) -> bool:
    """Return whether a call ended because its connection broke."""
    return isinstance(error, grpc.RpcError) and (not isinstance(error, grpc.Call) or error.code() in _BROKEN)


def explain(peer: str, error: Exception | None) -> Exception:
    """Return the error to report for the end of a call; None: the peer ended it."""
    if error is None:
        return WorkerLost(f"{peer} ended the link or is gone")
    if not isinstance(error, grpc.RpcError):
        return error
    if not isinstance(error, grpc.Call):  # a server does not learn why its call ended
        return WorkerLost(f"{peer} is gone (connection lost)")
    if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
        return HandshakeRefused(error.details())
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return HandshakeRefused(
            f"handshake refused: {peer} does not take this for a stage of its run: set {VARIABLE} to the same at all "
            "stages, or at none"
        )
    return WorkerLost(f"{peer} is gone ({error.code().name}: {error.details()})")
