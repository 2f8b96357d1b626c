"""One end of a gRPC link: a thread that receives, and a queue of what is to be sent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc

from dni.errors import DniError, HandshakeRefused, WireError, WorkerLost
from workers.comm.codec import decode, encode, most_bytes, room_for
from workers.comm.frame import Frame, Handshake, Kind
from workers.comm.shared_memory import Rings
from workers.comm.transports.process_link import LinkEnd, LinkSettings
from workers.comm.transports.staging import Leaving, staging_for
from workers.system.background import background, as_thread_error


class GrpcEnd(LinkEnd):
    """One end of a link between processes; made by `grpc_connect` and `GrpcListener`.

    Frames are encoded by the thread that sends them and decoded by the end's own thread.
    """

    def __init__(self, peer: str, settings: LinkSettings) -> None:
        self._staging = staging_for(settings.device)
        super().__init__(peer, settings, self._staging.arrive if self._staging else None)
        self._rings = Rings(settings.ring, settings.max_frame) if settings.ring else None
        self._outgoing: queue.SimpleQueue[bytes | Leaving | None] = queue.SimpleQueue()  # None: nothing follows
        self._over = threading.Event()

    def start(self, rpc: Any, incoming: Iterator[bytes], release: Callable[[], None]) -> None:
        """Receive what comes in; `release` frees what the call needed once it is over."""
        self._rpc, self._release = rpc, release
        if not rpc.add_callback(self._over.set):
            self._over.set()
        self._reader = background("dni-reader", partial(self._read, incoming), self._died)
        self._reader.start()

    def outgoing(self) -> Iterator[bytes]:
        """Encoded frames to be sent, as they come; ends after `close` or when the link is down."""
        try:
            while (item := self._outgoing.get()) is not None:
                yield self._encoded(item)
        except Exception as error:  # gRPC, in whose thread this runs, would only log it
            self._died(as_thread_error("dni-sender", error))
            raise

    def greet(self, mine: Handshake) -> None:
        """Send the first frame."""
        self.send(Frame(Kind.HANDSHAKE, stage=mine.stage, handshake=mine))

    def greeting(self, timeout: float) -> Handshake:
        """The peer's first frame. Raises HandshakeRefused if it is anything but a handshake, PeerTimeout if late."""
        frame = self._inbox.take(timeout)
        if frame.handshake is None:
            raise HandshakeRefused(f"{self._inbox.peer} began with a {frame.kind.name} frame, not with a handshake")
        return frame.handshake

    def rename(self, peer: str) -> None:
        """Who the peer is, now that it has said so; for messages."""
        self._inbox.peer = peer

    def send(self, frame: Frame) -> None:
        self._check_open(frame)
        if self._staging is None:
            data = self._encode(frame)
        self._check_size(frame, len(data) if self._staging is None else most_bytes(frame))
        if self._outgoing.qsize() >= self._settings.limit:
            raise self._crowded(frame)
        self._outgoing.put(data if self._staging is None else self._staging.leave(frame))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._outgoing.put(None)
        # The call is over when the peer has everything, and has ended its half, too.
        if not self._over.wait(self._settings.timeout_s):
            self._rpc.cancel()
        self._reader.join(self._settings.timeout_s)
        if self._rings is not None:
            self._rings.close()
        self._release()
        self._inbox.fail(WorkerLost("this end of the link is closed"))

    def abandon(self) -> None:
        """End the call at once, sent or not."""
        self._rpc.cancel()
        self.close()

    def _read(self, incoming: Iterator[bytes]) -> None:
        try:
            for data in incoming:
                self._inbox.put(self._decode(data))
            self._inbox.fail(WorkerLost(f"{self._inbox.peer} ended the link or is gone"))
        except (grpc.RpcError, DniError) as error:
            self._inbox.fail(self._explain(error))
            self._rpc.cancel()
        finally:
            self._outgoing.put(None)

    def _died(self, error: Exception) -> None:
        self._inbox.fail(error)
        self._rpc.cancel()

    def _encoded(self, item: bytes | Leaving) -> bytes:
        return item if isinstance(item, bytes) else self._encode(item.wait())

    def _encode(self, frame: Frame) -> bytes:
        return encode(frame, checksum=self._settings.checksum, rings=self._rings)

    def _decode(self, data: bytes) -> Frame | WireError:
        try:
            room = room_for if self._staging is None else self._staging.room
            return decode(data, limit=self._settings.max_frame, room=room, rings=self._rings)
        except WireError as error:
            return type(error)(f"malformed frame from {self._inbox.peer}: {error}")

    def _explain(self, error: Exception) -> Exception:
        if not isinstance(error, grpc.Call):  # a server is not told why its call ended
            why = "connection lost" if isinstance(error, grpc.RpcError) else repr(error)
            return WorkerLost(f"{self._inbox.peer} is gone ({why})")
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            return HandshakeRefused(error.details())
        return WorkerLost(f"{self._inbox.peer} is gone ({error.code().name}: {error.details()})")
