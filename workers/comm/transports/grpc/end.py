"""One end of a gRPC link: a thread that receives, and a queue of frames to send."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc

from dni.errors import DniError, HandshakeRefused, WireError, WorkerLost
from workers.comm.codec import decode, encode, max_encoded_bytes, new_tensor
from workers.comm.frame import Frame, Handshake, Kind
from workers.comm.shared_memory import Rings
from workers.comm.transports.process_link import LinkEnd, LinkSettings
from workers.comm.transports.staging import PendingCopy, staging_for
from workers.system.background import as_thread_error, background


class GrpcEnd(LinkEnd):
    """One end of a gRPC link, made by `grpc_connect` and `GrpcListener`.

    The calling thread encodes the frames it sends; the end's own thread decodes received frames. Frames that come from
    a GPU are encoded by gRPC's thread, after their copy.
    """

    def __init__(self, peer: str, settings: LinkSettings) -> None:
        self._staging = staging_for(settings.device)
        super().__init__(peer, settings, self._staging.on_take if self._staging else None)
        self._rings = Rings(settings.ring, settings.max_frame) if settings.ring else None
        self._outgoing: queue.SimpleQueue[bytes | PendingCopy | None] = queue.SimpleQueue()  # None: end of the stream
        self._over = threading.Event()
        self._received_end = False  # only the next stage receives an END frame

    def start(self, rpc: Any, incoming: Iterator[bytes], release: Callable[[], None]) -> None:
        """Start the thread that reads `incoming`; `close` calls `release` to free the resources of the call."""
        self._rpc, self._release = rpc, release
        if not rpc.add_callback(self._over.set):
            self._over.set()
        self._reader = background("dni-reader", partial(self._read, incoming), self._died)
        self._reader.start()

    def outgoing(self) -> Iterator[bytes]:
        """Yield encoded frames to send, until `close` or until the link is down."""
        try:
            while (item := self._outgoing.get()) is not None:
                yield self._encoded(item)
        except Exception as error:  # runs in a thread of gRPC, which would only log it
            self._died(as_thread_error("dni-sender", error))
            raise

    def greet(self, mine: Handshake) -> None:
        """Send the handshake, the first frame of this end."""
        self.send(Frame(Kind.HANDSHAKE, stage=mine.stage, handshake=mine))

    def greeting(self, timeout: float) -> Handshake:
        """Wait for the peer's handshake. Raises HandshakeRefused for any other frame, PeerTimeout after `timeout`."""
        frame = self._inbox.take(timeout)
        if frame.handshake is None:
            raise HandshakeRefused(f"{self._inbox.peer} began with a {frame.kind.name} frame, not with a handshake")
        return frame.handshake

    def rename(self, peer: str) -> None:
        """Set the peer's name in error messages."""
        self._inbox.peer = peer

    def send(self, frame: Frame) -> None:
        self._check_open(frame)
        if self._staging is None:
            data = self._encode(frame)
        self._check_size(frame, len(data) if self._staging is None else max_encoded_bytes(frame))
        if self._outgoing.qsize() >= self._settings.limit:
            raise self._crowded(frame)
        self._outgoing.put(data if self._staging is None else self._staging.start_copy(frame))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._received_end:  # the previous stage closes once it has our last frame; a call that this end closed
            self._reader.join(self._settings.timeout_s)  # first could fail there in a write, and lose that frame
        self._outgoing.put(None)
        # The call ends when the peer has received everything and has ended its half, too.
        if not self._over.wait(self._settings.timeout_s):
            self._rpc.cancel()
        self._reader.join(self._settings.timeout_s)
        if self._rings is not None:
            self._rings.close()
        self._release()
        self._inbox.fail(WorkerLost("this end of the link is closed"))

    def abandon(self) -> None:
        """End the call at once, without delivering queued frames."""
        self._rpc.cancel()
        self.close()

    def _read(self, incoming: Iterator[bytes]) -> None:
        try:
            for data in incoming:
                frame = self._decode(data)
                self._received_end |= isinstance(frame, Frame) and frame.kind is Kind.END
                self._inbox.put(frame)
            self._inbox.fail(WorkerLost(f"{self._inbox.peer} ended the link or is gone"))
        except (grpc.RpcError, DniError) as error:
            self._inbox.fail(self._explain(error))
            self._rpc.cancel()
        finally:
            self._outgoing.put(None)

    def _died(self, error: Exception) -> None:
        self._inbox.fail(error)
        self._rpc.cancel()

    def _encoded(self, item: bytes | PendingCopy) -> bytes:
        return item if isinstance(item, bytes) else self._encode(item.wait())

    def _encode(self, frame: Frame) -> bytes:
        return encode(frame, checksum=self._settings.checksum, rings=self._rings)

    def _decode(self, data: bytes) -> Frame | WireError:
        try:
            allocate = new_tensor if self._staging is None else self._staging.allocate
            return decode(data, limit=self._settings.max_frame, allocate=allocate, rings=self._rings)
        except WireError as error:
            return type(error)(f"malformed frame from {self._inbox.peer}: {error}")

    def _explain(self, error: Exception) -> Exception:
        if not isinstance(error, grpc.Call):  # a server does not learn why its call ended
            why = "connection lost" if isinstance(error, grpc.RpcError) else repr(error)
            return WorkerLost(f"{self._inbox.peer} is gone ({why})")
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            return HandshakeRefused(error.details())
        return WorkerLost(f"{self._inbox.peer} is gone ({error.code().name}: {error.details()})")
