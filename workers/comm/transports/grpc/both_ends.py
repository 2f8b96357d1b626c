"""The ends of a gRPC link: the previous stage's, which opens calls, and the next stage's, which accepts them."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

from dni.errors import HandshakeRefused, WireError, WorkerLost
from workers.comm.codec import encode
from workers.comm.frame import Frame, Handshake, Kind, agree
from workers.comm.transports.grpc.call import Call, Message
from workers.comm.transports.grpc.end import GrpcEnd
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.secret import check_proof

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0  # between two attempts to connect again
_ATTEMPT_S = 5.0  # longest attempt
_LAST_ATTEMPT_S = 1.0  # longest attempt of an end that is being closed; it makes one


class ClientEnd(GrpcEnd):
    """The end of the previous stage. It opens the calls, on one channel, which connects anew for each if necessary."""

    def __init__(
        self, peer: str, settings: LinkSettings, mine: Handshake, open_call: Callable[[Iterator[bytes]], Any]
    ) -> None:
        super().__init__(peer, settings, mine, Call(peer))
        self._open_call, self._connection = open_call, mine.connection
        self.greet(0)
        self._open(self._call)

    def greeting(self, timeout: float) -> Handshake:
        """Wait for the handshake of the next stage. Raises as `Call.greeting`."""
        return self._call.greeting(timeout)

    @property
    def is_busy(self) -> bool:
        """Whether the listener had no room for the first call."""
        return self._call.is_busy

    @property
    def is_cut(self) -> bool:
        """Whether the connection of the first call broke."""
        return self._call.is_cut

    def _open(self, call: Call) -> None:
        rpc = self._open_call(call.outgoing())
        call.start(rpc, rpc, self.decode)

    def _ended_in_order(self) -> bool:
        return True  # the server has sent a status

    def _finish(self, call: Call) -> None:
        call.put(Message(encode(Frame(Kind.CLOSE, stage=self._mine.stage))))
        super()._finish(call)

    def _next_call(self, deadline: float, lost: Exception) -> tuple[Call, Handshake]:
        pause = _FIRST_PAUSE_S
        while (left := deadline - time.monotonic()) > 0 and not self._over.is_set():
            last = self._finishing
            try:
                return self._connect_again(min(left, _LAST_ATTEMPT_S if last else _ATTEMPT_S))
            except HandshakeRefused:
                raise
            except (WorkerLost, WireError):
                if last:
                    break
            self._over.wait(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        raise self._gave_up(lost)

    def _connect_again(self, timeout_s: float) -> tuple[Call, Handshake]:
        self._connection += 1
        call = Call(self._inbox.peer)
        call.put(self._greeting_again(self._connection, 0))
        self._open(call)
        try:
            theirs = call.greeting(timeout_s)
            check_proof(theirs, self._settings.secret, self._mine.link)
            agree(client=self._mine, server=theirs)
            self._same_peer(theirs)
        except BaseException:
            call.cancel()
            raise
        return call, theirs


class ServerEnd(GrpcEnd):
    """The end of the next stage. When its call breaks, it waits for the one that the previous stage opens."""

    def __init__(self, peer: str, settings: LinkSettings, mine: Handshake, call: Call) -> None:
        super().__init__(peer, settings, mine, call)
        self._offers: queue.SimpleQueue[tuple[Call, Handshake] | None] = queue.SimpleQueue()  # None: wait for none
        self._newest = 0  # number of the newest connection

    def begin(self, theirs: Handshake, release: Callable[[], object] = lambda: None) -> None:
        """Answer the handshake of the previous stage, and begin."""
        self._newest = theirs.connection
        self.greet(theirs.link)
        super().begin(theirs, release)

    def is_of(self, theirs: Handshake) -> bool:
        """Return whether this end and the sender of a handshake began this link."""
        return self._theirs.link == theirs.link

    def offer(self, call: Call, theirs: Handshake) -> None:
        """Continue with a new call; the one before is over, whether this end has noticed or not.

        If the link has ended, end the call in order: so the previous stage learns of it. Raises HandshakeRefused for a
        handshake that was used before.
        """
        with self._lock:
            if theirs.connection <= self._newest:
                raise HandshakeRefused(f"handshake refused: connection {theirs.connection} is not a new one")
            self._newest = theirs.connection
            if not self._over.is_set():
                self._offers.put((call, theirs))
                self._call.cancel()
                return
        call.put(self._greeting_again(theirs.connection, theirs.link))
        call.finish()
        call.dismiss()

    def _ended_in_order(self) -> bool:
        return self._peer_closed  # gRPC may end the requests of a cut call as those of a finished one

    def _next_call(self, deadline: float, lost: Exception) -> tuple[Call, Handshake]:
        newest = None
        while newest is None or not self._offers.empty():
            try:
                offer = self._offers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                offer = None
            if newest is not None:  # the previous stage has given it up
                newest[0].cancel()
            if offer is None:
                raise self._gave_up(lost)
            newest = offer
        call, theirs = newest
        call.put(self._greeting_again(theirs.connection, theirs.link))
        return call, theirs

    def _stop_waiting(self) -> None:
        self._offers.put(None)

    def _continue_with(self, call: Call, theirs: Handshake) -> None:
        super()._continue_with(call, theirs)
        with self._lock:
            if not self._offers.empty():
                call.cancel()

    def _end(self, failure: Exception) -> None:
        super()._end(failure)
        with self._lock:
            while not self._offers.empty():
                if (offer := self._offers.get()) is not None:
                    offer[0].cancel()
