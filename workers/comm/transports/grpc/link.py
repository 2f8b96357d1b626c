"""Links between processes over gRPC: one bidirectional call per edge, as long as the run and its connection.

    grpc_connect (stage k-1) ── HANDSHAKE, STEP ... END ──> GrpcListener.accept (stage k)
                            <── HANDSHAKE, GRADIENT | DONE ──

The upstream stage is the client. All messages are frames of `workers.comm.codec`. When the connection is lost, the
client opens a new call, and both ends continue with it (`workers.comm.transports.grpc.end`).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import suppress
from dataclasses import replace
from secrets import randbits
from typing import NoReturn, cast

import grpc

from dni.errors import ConfigError, HandshakeRefused, PeerTimeout, WireError, WorkerLost
from workers.comm.address import UNIX, check_address
from workers.comm.frame import Handshake, agree
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc.both_ends import ClientEnd, ServerEnd
from workers.comm.transports.grpc.call import Call
from workers.comm.transports.grpc.channel import RenewedChannel, server_credentials
from workers.comm.transports.grpc.health import health_handler
from workers.comm.transports.grpc.options import (
    METHOD,
    MOST_CALLS,
    SERVICE,
    SILENT_S,
    DaemonThreads,
    of_client,
    of_server,
)
from workers.comm.transports.grpc.refusal import own_certificate_error, receive_greeting
from workers.comm.transports.grpc.tls import Tls
from workers.comm.transports.process_link import DEFAULT_SETTINGS, Accepting, LinkSettings
from workers.comm.transports.secret import check_proof
from workers.system.background import as_thread_error

log = logging.getLogger(__name__)

_NEUTRAL = "not a stage of this run"  # what a stranger is told
_BUSY_PAUSE_S = 0.2  # before a listener that is busy with others is called again


def grpc_connect(
    address: str,
    handshake: Handshake,
    settings: LinkSettings = DEFAULT_SETTINGS,
    *,
    tls: Tls | None = None,
) -> ChannelEnd:
    """Connect to the stage that listens at `address` ("host:port" or "unix:PATH"); return the upstream end.

    The listener may start later, within `settings.timeout_s`, and a connection that is cut before its answer is made
    anew, unless `settings.reconnect_s` is 0. With `tls`, the link is encrypted and both ends
    authenticate; without, it is plaintext.

    Raises PeerTimeout if the listener does not answer in time, HandshakeRefused if the two disagree, ConfigError for
    an address that is not allowed, WorkerLost if the listener went away.
    """
    check_address(address, settings.insecure or tls is not None)
    peer, timeout_s = f"stage {handshake.stage + 1} at {address}", settings.timeout_s
    handshake, deadline = _of_new_link(handshake), time.monotonic() + timeout_s
    settings = _with_ring(settings, address)
    channel = RenewedChannel(address, of_client(settings), tls)
    while True:
        end = ClientEnd(peer, settings, handshake, channel.call)
        try:
            theirs = receive_greeting(end.greeting, peer, address, tls, max(0.0, deadline - time.monotonic()))
            check_proof(theirs, settings.secret, handshake.link)
            agree(client=handshake, server=theirs)
            end.begin(theirs, channel.close)
        except BaseException as error:
            cut = end.is_cut and settings.reconnect_s > 0 and not settings.ring  # a ring is that of the first call
            again = isinstance(error, WorkerLost) and (cut or end.is_busy)
            end.abandon()
            if again and time.monotonic() < deadline - _BUSY_PAUSE_S:
                handshake = _of_next_call(handshake) if cut else handshake
                time.sleep(_BUSY_PAUSE_S)
                continue
            channel.close()
            if not isinstance(error, PeerTimeout):
                raise
            raise PeerTimeout(
                f"stage {handshake.stage}: no answer from {peer} within {timeout_s:g} s; is it running there?"
            ) from None
        return end


class GrpcListener(Accepting):
    """Accepts the gRPC connection of the previous stage.

    `address` is the address to connect to, "host:port" or "unix:PATH". Refused clients, and clients that are not
    stages, have no effect on the link.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        handshake: Handshake,
        settings: LinkSettings = DEFAULT_SETTINGS,
        tls: Tls | None = None,
    ) -> None:
        """Listen at `bind`; port 0 means any free port. `tls` as in `grpc_connect`.

        Raises ConfigError if `bind` is taken, impossible or not allowed.
        """
        host = check_address(bind, settings.insecure or tls is not None)
        super().__init__(_of_new_link(handshake), MOST_CALLS)
        self._settings = _with_ring(settings, bind)
        self._ends: set[ServerEnd] = set()
        self._entering = threading.Lock()
        self._server = grpc.server(
            cast(futures.ThreadPoolExecutor, DaemonThreads()),
            options=of_server(settings),
            maximum_concurrent_rpcs=MOST_CALLS,
        )
        handler = grpc.stream_stream_rpc_method_handler(self._link)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        if settings.health:
            self._server.add_generic_rpc_handlers((health_handler(self._serves),))
        try:
            port = self._add_port(bind, tls)
        except RuntimeError:
            reason = None if tls is None else own_certificate_error(tls)
            raise ConfigError(
                f"stage {handshake.stage}: cannot listen at {bind}; {reason or 'choose a free port'}"
            ) from None
        self.address = bind if bind.startswith(UNIX) else f"{host}:{port}"
        self._server.start()

    def close(self) -> None:
        """Close every accepted end (delivering its sent frames) and stop listening. Idempotent."""
        for end in list(self._ends):
            end.close()
        self._server.stop(None)
        with suppress(queue.Full):
            self._accepted.put_nowait(WorkerLost(f"the listener at {self.address} is closed"))

    def _link(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        peer = f"the client at {self._where(context)}"
        call = Call(peer)
        end = ServerEnd(peer, self._settings, self._handshake, call)
        call.start(context, requests, end.decode)
        known = False
        try:
            theirs = call.greeting(min(self._settings.timeout_s, SILENT_S))
            check_proof(theirs, self._settings.secret)
            known = True
            agree(client=theirs, server=self._handshake)
            self._enter(end, call, theirs, f"stage {theirs.stage} at {self._where(context)}")
        except (WireError, WorkerLost, queue.Full) as error:
            call.dismiss()
            self._refuse(error, context, known or not self._settings.secret)
        except Exception as error:  # a bug: gRPC would only log it, and `accept` would time out
            call.dismiss()
            self.died(as_thread_error("dni-call", error))
            raise
        yield from call.outgoing()

    def _serves(self) -> bool:
        return not all(end.is_over for end in list(self._ends))

    def _enter(self, end: ServerEnd, call: Call, theirs: Handshake, name: str) -> None:
        """Continue a link with a new call, or begin one. Raises HandshakeRefused while another one lasts."""
        with self._entering:
            mine = next((each for each in self._ends if each.is_of(theirs)), None)
            if mine is not None and theirs.connection:
                mine.offer(call, theirs)
                return
            if theirs.connection and theirs.next_sequence:
                raise HandshakeRefused(
                    f"handshake refused: stage {theirs.stage} connects again, and stage {self._handshake.stage} has no "
                    f"link {theirs.link}: its process was started again, and can only continue from a checkpoint"
                )
            if self._serves():
                raise HandshakeRefused(f"handshake refused: stage {self._handshake.stage} has its previous stage")
            end.rename(name)
            self._accepted.put_nowait(end)
            end.begin(theirs)
            self._ends.add(end)

    def _add_port(self, bind: str, tls: Tls | None) -> int:
        if tls is None:
            return self._server.add_insecure_port(bind)
        return self._server.add_secure_port(bind, server_credentials(tls))

    def _where(self, context: grpc.ServicerContext) -> str:
        """Return a client's address; over a unix socket, that of the listener."""
        return self.address if self.address.startswith(UNIX) else str(context.peer())

    def _refuse(self, error: Exception, context: grpc.ServicerContext, known: bool) -> NoReturn:
        """End the call. A stage that is known to be of this run learns why, and so does `accept`."""
        log.warning("stage %d refused a client at %s: %s", self._handshake.stage, self._where(context), error)
        refused = isinstance(error, HandshakeRefused)
        if refused and known and not self._ends:
            with suppress(queue.Full):
                self._accepted.put_nowait(error)
        if isinstance(error, PeerTimeout):
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        elif not known:
            code = grpc.StatusCode.UNAUTHENTICATED
        else:
            code = grpc.StatusCode.FAILED_PRECONDITION if refused else grpc.StatusCode.INVALID_ARGUMENT
        context.abort(code, str(error)[:1000] if known else _NEUTRAL)
        raise AssertionError("abort raises")


def _with_ring(settings: LinkSettings, address: str) -> LinkSettings:
    """Drop the ring unless both ends are on one machine, which only a unix socket guarantees."""
    return settings if address.startswith(UNIX) else replace(settings, ring=0)


def _of_next_call(handshake: Handshake) -> Handshake:
    """Return the handshake of a further call that begins the link, as the ones before had no answer."""
    return replace(handshake, connection=handshake.connection + 1, next_sequence=0)


def _of_new_link(handshake: Handshake) -> Handshake:
    """Return the handshake with a number that no other process has drawn."""
    return replace(handshake, link=1 + randbits(63))
