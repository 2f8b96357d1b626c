"""One end of a gRPC link. It outlives the calls that carry its frames: a broken call is replaced by a new one.

Sent frames are kept until the peer has acknowledged them (`Frame.done_through`); credit bounds their number. The
handshake of a new call says which frame each end expects next, and the others are sent again.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import grpc

from dni.errors import DniError, HandshakeRefused, WireError, WorkerLost
from workers.comm.codec import decode, encode, max_encoded_bytes, new_tensor
from workers.comm.frame import Frame, Handshake, Kind
from workers.comm.shared_memory import Rings
from workers.comm.transports.grpc.call import Call, Message, explain, is_broken
from workers.comm.transports.grpc.repeats import DAMAGED, DamageLog, is_repeated, is_unreadable
from workers.comm.transports.process_link import LinkEnd, LinkSettings
from workers.comm.transports.secret import prove
from workers.comm.transports.staging import PendingCopy, staging_for

log = logging.getLogger(__name__)


class GrpcEnd(LinkEnd):
    """One end of a gRPC link, made by `grpc_connect` and `GrpcListener`.

    The calling thread encodes the frames it sends; the thread of the call decodes received frames, and makes a new call
    when its own breaks. Frames that come from a GPU are encoded by gRPC's thread, after their copy.
    """

    reconnects = 0

    def __init__(self, peer: str, settings: LinkSettings, mine: Handshake, call: Call) -> None:
        self._staging = staging_for(settings.device)
        super().__init__(peer, settings, self._staging.on_take if self._staging else None)
        self._rings = Rings(settings.ring, settings.max_frame) if settings.ring else None
        self._mine, self._call = mine, call
        self._release: Callable[[], object] = lambda: None
        self._lock = threading.Lock()  # of the call and the kept messages
        self._encoding = threading.Lock()
        self._kept: deque[Message] = deque()  # the last of the sent messages, not acknowledged
        self._sent = self._received = 0  # frames, without handshakes
        self._checked = True  # no frame of this call can be a repeated one any more
        self._damage = DamageLog()
        self._finishing = False
        self._over = threading.Event()  # nothing is received any more, and no new call is made
        self._received_end = self._peer_closed = False  # only the next stage receives END and CLOSE frames

    def begin(self, theirs: Handshake, release: Callable[[], object]) -> None:
        """Begin after the handshakes; `close` calls `release` to free the resources of the link."""
        self._theirs, self._release = theirs, release
        self._call.deliver_to(self)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is received, over this connection or another."""
        return self._over.is_set()

    def greet(self, answers: int) -> None:
        """Send the handshake of a new link; `answers` as in `prove`."""
        self._call.put(Message(self._encode(self._greeting(self._mine, answers))))

    def rename(self, peer: str) -> None:
        """Set the peer's name in error messages."""
        self._inbox.peer = peer

    def send(self, frame: Frame) -> None:
        self._check_open(frame)
        message = self._message(frame)
        with self._lock:
            if self._call.waiting() >= self._settings.limit:
                raise self._crowded(frame)
            self._sent += 1
            if self._settings.reconnect_s:
                self._kept.append(message)
            self._call.put(message)

    def close(self) -> None:
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        timeout_s = self._settings.timeout_s
        if self._received_end:  # the previous stage closes once it has our last frame; a call that this end closed
            self._over.wait(timeout_s)  # first could fail there in a write, and lose that frame
        with self._lock:
            self._finishing = True
            self._finish(self._call)
        self._stop_waiting()
        # The call ends when the peer has received everything and has ended its half, too.
        if not (self._over.wait(timeout_s) and self._call.over.wait(timeout_s)):
            self._end(WorkerLost(f"{self._inbox.peer} has not ended the link"))
        self._call.join(timeout_s)
        if self._rings is not None:
            self._rings.close()
        self._release()
        self._inbox.fail(WorkerLost("this end of the link is closed"))

    def give_up(self) -> None:
        super().give_up()
        self._end(WorkerLost("given up"))
        self._stop_waiting()
        self._call.cancel()

    def abandon(self) -> None:
        """End the link at once, without delivering queued frames."""
        self._end(WorkerLost("this end of the link is closed"))
        self._call.cancel()
        self.close()

    def decode(self, data: bytes) -> Frame | WireError:
        """Decode a message; return the error of a malformed one."""
        try:
            allocate = new_tensor if self._staging is None else self._staging.allocate
            return decode(data, limit=self._settings.max_frame, allocate=allocate, rings=self._rings)
        except WireError as error:
            return type(error)(f"malformed frame from {self._inbox.peer}: {error}")

    def received(self, data: bytes) -> None:
        """Take a message, unless it came before. Raises FlowControlError, and the error of one to be sent again."""
        if not self._checked and is_repeated(data, self._received):
            return
        self._checked = True
        frame = self.decode(data)
        if isinstance(frame, Frame) and frame.kind is Kind.CLOSE:
            self._peer_closed = True
            return
        if isinstance(frame, DAMAGED) and self._settings.reconnect_s and self._damage.is_new(self._received):
            raise frame
        self._received += 1
        if isinstance(frame, Frame):
            self._received_end |= frame.kind is Kind.END
            self._acknowledge(frame.done_through)
        self._inbox.put(frame)

    def call_ended(self, error: Exception | None) -> None:
        """End the link with its call, or continue with a new call if the connection is broken."""
        if error is None and not self._ended_in_order():
            error = grpc.RpcError()
        lost = explain(self._inbox.peer, error)
        if not self._settings.reconnect_s or error is None or self._over.is_set() or not self._repairs(error):
            self._end(lost)
            return
        # A peer that has everything may exit before this end has read the status of the call: that is no news.
        level = logging.DEBUG if self._finishing else logging.WARNING
        log.log(level, "stage %d: %s; connecting again", self._mine.stage, lost)
        start = time.monotonic()
        try:
            self._continue_with(*self._next_call(start + self._settings.reconnect_s, lost))
        except DniError as failure:
            self._end(failure)
            return
        took = time.monotonic() - start
        log.log(level, "stage %d: connected to %s again after %.1f s", self._mine.stage, self._inbox.peer, took)

    def _repairs(self, error: Exception) -> bool:
        """Return whether the link may go on with a new call after this error."""
        unreadable = is_unreadable(error) and self._damage.is_new(self._received)
        return unreadable or isinstance(error, DAMAGED) or is_broken(error)

    @abstractmethod
    def _next_call(self, deadline: float, lost: Exception) -> tuple[Call, Handshake]:
        """Return a new call, and the peer's handshake. Raises WorkerLost after `deadline`, HandshakeRefused."""

    @abstractmethod
    def _ended_in_order(self) -> bool:
        """Return whether a call was not cut that ended without an error."""

    def _finish(self, call: Call) -> None:
        """End this half of a call in order."""
        call.finish()

    def _stop_waiting(self) -> None:  # the previous stage makes one more attempt
        """Wait for no further call: this end is being closed."""

    def _continue_with(self, call: Call, theirs: Handshake) -> None:
        """Send again what the peer lacks, and go on. Raises HandshakeRefused if that is not kept any more."""
        expected = max(1, theirs.next_sequence)
        with self._lock:
            self._drop_through(expected - 1)
            if expected != self._sent - len(self._kept) + 1:
                call.cancel()
                raise HandshakeRefused(
                    f"handshake refused: next_sequence is {theirs.next_sequence} at stage {theirs.stage}; stage "
                    f"{self._mine.stage} has sent {self._sent} frames and keeps the last {len(self._kept)}"
                )
            for message in self._kept:
                call.put(message)
            if self._finishing:
                self._finish(call)
            self._call, self._checked = call, False
            self.reconnects += 1
            call.deliver_to(self)

    def _greeting_again(self, connection: int, answers: int) -> Message:
        """Return the handshake of a further call."""
        again = replace(self._mine, connection=connection, next_sequence=self._received + 1)
        return Message(encode(self._greeting(again, answers)))  # without the rings, which both ends have

    def _greeting(self, mine: Handshake, answers: int) -> Frame:
        return Frame(Kind.HANDSHAKE, stage=mine.stage, handshake=prove(mine, self._settings.secret, answers))

    def _same_peer(self, theirs: Handshake) -> None:
        """Raise HandshakeRefused if a further call reached another process than the first one."""
        if theirs.link != self._theirs.link:
            raise HandshakeRefused(
                f"handshake refused: link is {theirs.link} at stage {theirs.stage} and was {self._theirs.link}: its "
                "process was started again, and can only continue from a checkpoint"
            )

    def _gave_up(self, lost: Exception) -> WorkerLost:
        return WorkerLost(
            f"{lost}; no connection again within {self._settings.reconnect_s:g} s (transport.reconnect_s): received "
            f"{self._received} frames, sent {self._sent}, of which {len(self._kept)} were not acknowledged"
        )

    def _end(self, failure: Exception) -> None:
        self._inbox.fail(failure)
        self._over.set()

    def _acknowledge(self, through: int) -> None:
        if self._kept:
            with self._lock:
                self._drop_through(through)

    def _drop_through(self, number: int) -> None:
        while self._kept and self._sent - len(self._kept) < number:
            self._kept.popleft()

    def _message(self, frame: Frame) -> Message:
        if self._staging is None:
            data = self._encode(frame)
            self._check_size(frame, len(data))
            return Message(data)
        self._check_size(frame, max_encoded_bytes(frame))
        return Message(partial(self._encode_copy, self._staging.start_copy(frame)))

    def _encode_copy(self, copy: PendingCopy) -> bytes:
        with self._encoding:  # a broken call may still encode
            return self._encode(copy.wait())

    def _encode(self, frame: Frame) -> bytes:
        return encode(frame, checksum=self._settings.checksum, rings=self._rings)
